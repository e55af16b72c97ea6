"""Short names of published weights: where each file is, how its images are prepared, what its classes are.

Addresses are those of the publishers' own READMEs and code (google-research/vision_transformer and big_vision) and of
the model pages on the Hugging Face hub; only hub repositories that hold safetensors are named.
"""

import dataclasses

from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.pretrained import augreg
from vit_jax.pretrained.download import HUB_SCHEMES, cache_path


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file or hub repository.

    Attributes:
      address: `gs://bucket/file`, or `hf://org/name`.
      preprocessing: what its images go through in evaluation.
      classes: `imagenet` (the 1000 classes), `imagenet21k`, or None where it has no such classifier.
      fields: fields of the model that the file cannot tell.
    """

    address: str
    preprocessing: Preprocessing
    classes: str | None = None
    fields: dict[str, object] = dataclasses.field(default_factory=dict)


def google(size: int) -> Preprocessing:
    """Returns the preprocessing of Google's JAX models: the whole image, squashed as TensorFlow does by default."""
    return Preprocessing((size, size), antialias=False)


def _imagenet_bicubic(size: int, resize: int) -> Preprocessing:
    return Preprocessing((size, size), resize, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _squashed_bicubic(size: int) -> Preprocessing:
    return Preprocessing((size, size), None, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)


_VIT, _MIXER, _BIG_VISION = "gs://vit_models", "gs://mixer_models", "gs://big_vision"
_TUNED = f"{_VIT}/imagenet21k+imagenet2012"
# They were evaluated with TensorFlow's area averages; the triangle that grows is the nearest of our filters.
_AREA_256 = Preprocessing((224, 224), resize=256)
_HF_GOOGLE = Preprocessing((224, 224))
_DEIT, _DEIT_384 = _imagenet_bicubic(224, 248), _imagenet_bicubic(384, 384)
_DEIT3_IN22K = _imagenet_bicubic(224, 224)
_DINOV2 = _imagenet_bicubic(224, 256)
_SWIN, _SWIN_384, _SWINV2 = _imagenet_bicubic(224, 248), _imagenet_bicubic(384, 384), _imagenet_bicubic(256, 284)


def _beit(size: int, resize: int) -> Preprocessing:
    return Preprocessing((size, size), resize, "bicubic")


def _deit3(repository: str, seen: Preprocessing, heads: int) -> Published:
    return Published(f"hf://timm/deit3_{repository}", seen, "imagenet", {"heads": heads, "layer_scale": 1e-6})


_RESNET_A1, _CONVNEXT, _CONVNEXT_384 = _imagenet_bicubic(224, 235), _imagenet_bicubic(224, 256), _squashed_bicubic(384)
_EFFICIENTFORMER = _imagenet_bicubic(224, 235)
_MOBILEVIT = Preprocessing((256, 256), 284, "bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_TORCHVISION = Preprocessing((224, 224), 256, mean=IMAGENET_MEAN, std=IMAGENET_STD)

_TABLE: dict[str, Published] = {
    # Dosovitskiy et al. 2021: pre-trained on ImageNet-21k, and fine-tuned on ImageNet at 384 or 224 pixels.
    "vit_b16_in21k": Published(f"{_VIT}/imagenet21k/ViT-B_16.npz", google(224), "imagenet21k"),
    "vit_b32_in21k": Published(f"{_VIT}/imagenet21k/ViT-B_32.npz", google(224), "imagenet21k"),
    "vit_l16_in21k": Published(f"{_VIT}/imagenet21k/ViT-L_16.npz", google(224), "imagenet21k"),
    "vit_l32_in21k": Published(f"{_VIT}/imagenet21k/ViT-L_32.npz", google(224), "imagenet21k"),
    "vit_h14_in21k": Published(f"{_VIT}/imagenet21k/ViT-H_14.npz", google(224), "imagenet21k"),
    "r50_vit_b16_in21k": Published(f"{_VIT}/imagenet21k/R50+ViT-B_16.npz", google(224), "imagenet21k"),
    "vit_b16_in1k_224": Published(f"{_TUNED}/ViT-B_16-224.npz", google(224), "imagenet"),
    "vit_b16_in1k_384": Published(f"{_TUNED}/ViT-B_16.npz", google(384), "imagenet"),
    "vit_b32_in1k_384": Published(f"{_TUNED}/ViT-B_32.npz", google(384), "imagenet"),
    "vit_l16_in1k_224": Published(f"{_TUNED}/ViT-L_16-224.npz", google(224), "imagenet"),
    "vit_l16_in1k_384": Published(f"{_TUNED}/ViT-L_16.npz", google(384), "imagenet"),
    "vit_l32_in1k_384": Published(f"{_TUNED}/ViT-L_32.npz", google(384), "imagenet"),
    "r50_vit_b16_in1k_384": Published(f"{_TUNED}/R50+ViT-B_16.npz", google(384), "imagenet"),
    # Chen et al. 2022: from scratch on ImageNet with sharpness-aware minimisation.
    "sam/vit_b16": Published(f"{_VIT}/sam/ViT-B_16.npz", google(224), "imagenet"),
    "sam/vit_b32": Published(f"{_VIT}/sam/ViT-B_32.npz", google(224), "imagenet"),
    "sam/mixer_b16": Published(f"{_MIXER}/sam/Mixer-B_16.npz", google(224), "imagenet"),
    "sam/mixer_b32": Published(f"{_MIXER}/sam/Mixer-B_32.npz", google(224), "imagenet"),
    # Tolstikhin et al. 2021.
    "mixer_b16_in21k": Published(f"{_MIXER}/imagenet21k/Mixer-B_16.npz", google(224), "imagenet21k"),
    "mixer_l16_in21k": Published(f"{_MIXER}/imagenet21k/Mixer-L_16.npz", google(224), "imagenet21k"),
    "mixer_b16_in1k": Published(f"{_MIXER}/imagenet1k/Mixer-B_16.npz", google(224), "imagenet"),
    "mixer_l16_in1k": Published(f"{_MIXER}/imagenet1k/Mixer-L_16.npz", google(224), "imagenet"),
    # Beyer et al. 2022: the plain ViT-S/16 from scratch.
    "vit_s16_in1k_90ep": Published(f"{_BIG_VISION}/vit_s16_i1k_90ep.npz", _AREA_256, "imagenet"),
    "vit_s16_in1k_150ep": Published(f"{_BIG_VISION}/vit_s16_i1k_150ep.npz", _AREA_256, "imagenet"),
    "vit_s16_in1k_300ep": Published(f"{_BIG_VISION}/vit_s16_i1k_300ep.npz", _AREA_256, "imagenet"),
    # Zhai et al. 2023: SigLIP; the files hold a text tower too.
    "siglip_b16_224": Published(f"{_BIG_VISION}/siglip/webli_en_b16_224_63724782.npz", google(224)),
    "siglip_b16_256": Published(f"{_BIG_VISION}/siglip/webli_en_b16_256_60500360.npz", google(256)),
    "siglip_b16_384": Published(f"{_BIG_VISION}/siglip/webli_en_b16_384_68578854.npz", google(384)),
    "siglip_b16_512": Published(f"{_BIG_VISION}/siglip/webli_en_b16_512_68580893.npz", google(512)),
    "siglip_l16_256": Published(f"{_BIG_VISION}/siglip/webli_en_l16_256_60552751.npz", google(256)),
    "siglip_l16_384": Published(f"{_BIG_VISION}/siglip/webli_en_l16_384_63634585.npz", google(384)),
    "siglip_so400m14_224": Published(f"{_BIG_VISION}/siglip/webli_en_so400m_224_57633886.npz", google(224)),
    "siglip_i18n_b16_256": Published(f"{_BIG_VISION}/siglip/webli_i18n_b16_256_66117334.npz", google(256)),
    # Google's ViT as Hugging Face converted it, to be evaluated with Pillow's bilinear filter.
    "vit_b16_in1k_224_hf": Published("hf://google/vit-base-patch16-224", _HF_GOOGLE, "imagenet"),
    "vit_b16_in1k_384_hf": Published("hf://google/vit-base-patch16-384", _HF_GOOGLE.at_size((384, 384)), "imagenet"),
    "vit_b32_in1k_384_hf": Published("hf://google/vit-base-patch32-384", _HF_GOOGLE.at_size((384, 384)), "imagenet"),
    "vit_b16_in21k_hf": Published("hf://google/vit-base-patch16-224-in21k", _HF_GOOGLE),
    # Oquab et al. 2024 (DINOv2), Darcet et al. 2024 (with registers): no classifier.
    "dinov2_s14": Published("hf://facebook/dinov2-small", _DINOV2),
    "dinov2_b14": Published("hf://facebook/dinov2-base", _DINOV2),
    "dinov2_l14": Published("hf://facebook/dinov2-large", _DINOV2),
    "dinov2_g14": Published("hf://facebook/dinov2-giant", _DINOV2),
    "dinov2_s14_reg": Published("hf://facebook/dinov2-with-registers-small", _DINOV2),
    "dinov2_b14_reg": Published("hf://facebook/dinov2-with-registers-base", _DINOV2),
    "dinov2_l14_reg": Published("hf://facebook/dinov2-with-registers-large", _DINOV2),
    "dinov2_g14_reg": Published("hf://facebook/dinov2-with-registers-giant", _DINOV2),
    # Touvron et al. 2021 (DeiT), in timm's repositories, which hold safetensors; timm stores q, k and v as one array.
    "deit_ti16": Published("hf://timm/deit_tiny_patch16_224.fb_in1k", _DEIT, "imagenet", {"heads": 3}),
    "deit_s16": Published("hf://timm/deit_small_patch16_224.fb_in1k", _DEIT, "imagenet", {"heads": 6}),
    "deit_b16": Published("hf://timm/deit_base_patch16_224.fb_in1k", _DEIT, "imagenet", {"heads": 12}),
    "deit_b16_384": Published("hf://timm/deit_base_patch16_384.fb_in1k", _DEIT_384, "imagenet", {"heads": 12}),
    "deit_ti16_distilled": Published(
        "hf://timm/deit_tiny_distilled_patch16_224.fb_in1k", _DEIT, "imagenet", {"heads": 3}
    ),
    "deit_s16_distilled": Published(
        "hf://timm/deit_small_distilled_patch16_224.fb_in1k", _DEIT, "imagenet", {"heads": 6}
    ),
    "deit_b16_distilled": Published(
        "hf://timm/deit_base_distilled_patch16_224.fb_in1k", _DEIT, "imagenet", {"heads": 12}
    ),
    "deit_b16_384_distilled": Published(
        "hf://timm/deit_base_distilled_patch16_384.fb_in1k", _DEIT_384, "imagenet", {"heads": 12}
    ),
    # Touvron et al. 2022 (DeiT-III): from scratch on ImageNet, and pre-trained on ImageNet-22k.
    "deit3_s16": _deit3("small_patch16_224.fb_in1k", _DEIT, 6),
    "deit3_s16_in22k_in1k": _deit3("small_patch16_224.fb_in22k_ft_in1k", _DEIT3_IN22K, 6),
    "deit3_s16_384": _deit3("small_patch16_384.fb_in1k", _DEIT_384, 6),
    "deit3_s16_384_in22k_in1k": _deit3("small_patch16_384.fb_in22k_ft_in1k", _DEIT_384, 6),
    "deit3_b16": _deit3("base_patch16_224.fb_in1k", _DEIT, 12),
    "deit3_b16_in22k_in1k": _deit3("base_patch16_224.fb_in22k_ft_in1k", _DEIT3_IN22K, 12),
    "deit3_b16_384": _deit3("base_patch16_384.fb_in1k", _DEIT_384, 12),
    "deit3_b16_384_in22k_in1k": _deit3("base_patch16_384.fb_in22k_ft_in1k", _DEIT_384, 12),
    "deit3_l16": _deit3("large_patch16_224.fb_in1k", _DEIT, 16),
    "deit3_l16_in22k_in1k": _deit3("large_patch16_224.fb_in22k_ft_in1k", _DEIT3_IN22K, 16),
    "deit3_l16_384": _deit3("large_patch16_384.fb_in1k", _DEIT_384, 16),
    "deit3_l16_384_in22k_in1k": _deit3("large_patch16_384.fb_in22k_ft_in1k", _DEIT_384, 16),
    # Wightman et al. 2021 ("ResNet strikes back", recipe A1), and torchvision's first weights.
    "resnet18_a1": Published("hf://timm/resnet18.a1_in1k", _RESNET_A1, "imagenet"),
    "resnet34_a1": Published("hf://timm/resnet34.a1_in1k", _RESNET_A1, "imagenet"),
    "resnet50_a1": Published("hf://timm/resnet50.a1_in1k", _RESNET_A1, "imagenet"),
    "resnet101_a1": Published("hf://timm/resnet101.a1_in1k", _RESNET_A1, "imagenet"),
    "resnet152_a1": Published("hf://timm/resnet152.a1_in1k", _RESNET_A1, "imagenet"),
    "resnet18_tv": Published("hf://timm/resnet18.tv_in1k", _TORCHVISION, "imagenet"),
    "resnet34_tv": Published("hf://timm/resnet34.tv_in1k", _TORCHVISION, "imagenet"),
    "resnet50_tv": Published("hf://timm/resnet50.tv_in1k", _TORCHVISION, "imagenet"),
    "resnet101_tv": Published("hf://timm/resnet101.tv_in1k", _TORCHVISION, "imagenet"),
    "resnet152_tv": Published("hf://timm/resnet152.tv_in1k", _TORCHVISION, "imagenet"),
    # Liu et al. 2022: from scratch on ImageNet, and pre-trained on ImageNet-22k.
    "convnext_tiny": Published("hf://timm/convnext_tiny.fb_in1k", _CONVNEXT, "imagenet"),
    "convnext_small": Published("hf://timm/convnext_small.fb_in1k", _CONVNEXT, "imagenet"),
    "convnext_base": Published("hf://timm/convnext_base.fb_in1k", _CONVNEXT, "imagenet"),
    "convnext_large": Published("hf://timm/convnext_large.fb_in1k", _CONVNEXT, "imagenet"),
    "convnext_tiny_in22k_in1k": Published("hf://timm/convnext_tiny.fb_in22k_ft_in1k", _CONVNEXT, "imagenet"),
    "convnext_small_in22k_in1k": Published("hf://timm/convnext_small.fb_in22k_ft_in1k", _CONVNEXT, "imagenet"),
    "convnext_base_in22k_in1k": Published("hf://timm/convnext_base.fb_in22k_ft_in1k", _CONVNEXT, "imagenet"),
    "convnext_large_in22k_in1k": Published("hf://timm/convnext_large.fb_in22k_ft_in1k", _CONVNEXT, "imagenet"),
    "convnext_tiny_in22k_in1k_384": Published(
        "hf://timm/convnext_tiny.fb_in22k_ft_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    "convnext_small_in22k_in1k_384": Published(
        "hf://timm/convnext_small.fb_in22k_ft_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    "convnext_base_in22k_in1k_384": Published(
        "hf://timm/convnext_base.fb_in22k_ft_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    "convnext_large_in22k_in1k_384": Published(
        "hf://timm/convnext_large.fb_in22k_ft_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    # Woo et al. 2023 (V2): pre-trained by masked autoencoding, then fine-tuned.
    "convnextv2_atto": Published("hf://timm/convnextv2_atto.fcmae_ft_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_femto": Published("hf://timm/convnextv2_femto.fcmae_ft_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_pico": Published("hf://timm/convnextv2_pico.fcmae_ft_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_nano": Published("hf://timm/convnextv2_nano.fcmae_ft_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_tiny": Published("hf://timm/convnextv2_tiny.fcmae_ft_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_base": Published("hf://timm/convnextv2_base.fcmae_ft_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_large": Published("hf://timm/convnextv2_large.fcmae_ft_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_nano_in22k_in1k": Published("hf://timm/convnextv2_nano.fcmae_ft_in22k_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_tiny_in22k_in1k": Published("hf://timm/convnextv2_tiny.fcmae_ft_in22k_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_base_in22k_in1k": Published("hf://timm/convnextv2_base.fcmae_ft_in22k_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_large_in22k_in1k": Published("hf://timm/convnextv2_large.fcmae_ft_in22k_in1k", _CONVNEXT, "imagenet"),
    "convnextv2_nano_in22k_in1k_384": Published(
        "hf://timm/convnextv2_nano.fcmae_ft_in22k_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    "convnextv2_tiny_in22k_in1k_384": Published(
        "hf://timm/convnextv2_tiny.fcmae_ft_in22k_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    "convnextv2_base_in22k_in1k_384": Published(
        "hf://timm/convnextv2_base.fcmae_ft_in22k_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    "convnextv2_large_in22k_in1k_384": Published(
        "hf://timm/convnextv2_large.fcmae_ft_in22k_in1k_384", _CONVNEXT_384, "imagenet"
    ),
    # Liu et al. 2021 (Swin), from scratch on ImageNet, or pre-trained on ImageNet-22k first, in timm's repositories.
    "swin_tiny": Published("hf://timm/swin_tiny_patch4_window7_224.ms_in1k", _SWIN, "imagenet"),
    "swin_small": Published("hf://timm/swin_small_patch4_window7_224.ms_in1k", _SWIN, "imagenet"),
    "swin_base": Published("hf://timm/swin_base_patch4_window7_224.ms_in1k", _SWIN, "imagenet"),
    "swin_base_384": Published("hf://timm/swin_base_patch4_window12_384.ms_in1k", _SWIN_384, "imagenet"),
    "swin_tiny_in22k_in1k": Published("hf://timm/swin_tiny_patch4_window7_224.ms_in22k_ft_in1k", _SWIN, "imagenet"),
    "swin_small_in22k_in1k": Published("hf://timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k", _SWIN, "imagenet"),
    "swin_base_in22k_in1k": Published("hf://timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k", _SWIN, "imagenet"),
    "swin_large_in22k_in1k": Published("hf://timm/swin_large_patch4_window7_224.ms_in22k_ft_in1k", _SWIN, "imagenet"),
    "swin_base_384_in22k_in1k": Published(
        "hf://timm/swin_base_patch4_window12_384.ms_in22k_ft_in1k", _SWIN_384, "imagenet"
    ),
    "swin_large_384_in22k_in1k": Published(
        "hf://timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k", _SWIN_384, "imagenet"
    ),
    "swin_tiny_in22k": Published("hf://timm/swin_tiny_patch4_window7_224.ms_in22k", _SWIN),
    "swin_small_in22k": Published("hf://timm/swin_small_patch4_window7_224.ms_in22k", _SWIN),
    "swin_base_in22k": Published("hf://timm/swin_base_patch4_window7_224.ms_in22k", _SWIN),
    "swin_large_in22k": Published("hf://timm/swin_large_patch4_window7_224.ms_in22k", _SWIN),
    # Liu et al. 2022 (Swin V2); the files do not tell the windows.
    "swinv2_tiny": Published("hf://timm/swinv2_tiny_window8_256.ms_in1k", _SWINV2, "imagenet", {"window_size": 8}),
    "swinv2_tiny_window16": Published(
        "hf://timm/swinv2_tiny_window16_256.ms_in1k", _SWINV2, "imagenet", {"window_size": 16}
    ),
    "swinv2_small": Published("hf://timm/swinv2_small_window8_256.ms_in1k", _SWINV2, "imagenet", {"window_size": 8}),
    "swinv2_small_window16": Published(
        "hf://timm/swinv2_small_window16_256.ms_in1k", _SWINV2, "imagenet", {"window_size": 16}
    ),
    "swinv2_base": Published("hf://timm/swinv2_base_window8_256.ms_in1k", _SWINV2, "imagenet", {"window_size": 8}),
    "swinv2_base_window16": Published(
        "hf://timm/swinv2_base_window16_256.ms_in1k", _SWINV2, "imagenet", {"window_size": 16}
    ),
    # Bao et al. 2022 (BEiT), fine-tuned on ImageNet-22k and then on ImageNet; Peng et al. 2022 (BEiT v2).
    "beit_b16": Published("hf://timm/beit_base_patch16_224.in22k_ft_in22k_in1k", _beit(224, 248), "imagenet"),
    "beit_b16_384": Published("hf://timm/beit_base_patch16_384.in22k_ft_in22k_in1k", _beit(384, 384), "imagenet"),
    "beit_b16_in22k": Published("hf://timm/beit_base_patch16_224.in22k_ft_in22k", _beit(224, 248)),
    "beit_l16": Published("hf://timm/beit_large_patch16_224.in22k_ft_in22k_in1k", _beit(224, 248), "imagenet"),
    "beit_l16_384": Published("hf://timm/beit_large_patch16_384.in22k_ft_in22k_in1k", _beit(384, 384), "imagenet"),
    "beit_l16_512": Published("hf://timm/beit_large_patch16_512.in22k_ft_in22k_in1k", _beit(512, 512), "imagenet"),
    "beit_l16_in22k": Published("hf://timm/beit_large_patch16_224.in22k_ft_in22k", _beit(224, 248)),
    "beitv2_b16": Published("hf://timm/beitv2_base_patch16_224.in1k_ft_in1k", _SWIN, "imagenet"),
    "beitv2_b16_in22k_in1k": Published("hf://timm/beitv2_base_patch16_224.in1k_ft_in22k_in1k", _SWIN, "imagenet"),
    "beitv2_l16": Published("hf://timm/beitv2_large_patch16_224.in1k_ft_in1k", _imagenet_bicubic(224, 235), "imagenet"),
    "beitv2_l16_in22k_in1k": Published(
        "hf://timm/beitv2_large_patch16_224.in1k_ft_in22k_in1k", _imagenet_bicubic(224, 235), "imagenet"
    ),
    # Mehta and Rastegari 2022 (MobileViT): pixels in [0, 1], not normalised.
    "mobilevit_xxs": Published("hf://timm/mobilevit_xxs.cvnets_in1k", _MOBILEVIT, "imagenet"),
    "mobilevit_xs": Published("hf://timm/mobilevit_xs.cvnets_in1k", _MOBILEVIT, "imagenet"),
    "mobilevit_s": Published("hf://timm/mobilevit_s.cvnets_in1k", _MOBILEVIT, "imagenet"),
    # Li et al. 2022 (EfficientFormer), distilled.
    "efficientformer_l1": Published("hf://timm/efficientformer_l1.snap_dist_in1k", _EFFICIENTFORMER, "imagenet"),
    "efficientformer_l3": Published("hf://timm/efficientformer_l3.snap_dist_in1k", _EFFICIENTFORMER, "imagenet"),
    "efficientformer_l7": Published("hf://timm/efficientformer_l7.snap_dist_in1k", _EFFICIENTFORMER, "imagenet"),
}


def published(name: str) -> Published | None:
    """Returns what a short name stands for, or None where it is no short name.

    A name of AugReg is `augreg/B_16` (the best on ImageNet-21k), `augreg/B_16/imagenet2012@384` (its best fine-tuned
    one) or `augreg/` and the name of a file; the first two download `index.csv`, once.

    Raises:
      UserError: AugReg has no such file, or its index cannot be downloaded.
    """
    if name.startswith(f"{augreg.FOLDER}/"):
        return _augreg(augreg.choose(name.removeprefix(f"{augreg.FOLDER}/")))
    return _TABLE.get(name)


def published_at(address: str) -> Published | None:
    """Returns what the catalogue knows of an address or a hub id (`org/name`, at any revision), or None."""
    for scheme in HUB_SCHEMES:
        address = address.removeprefix(scheme)
    known = {entry.address.removeprefix("hf://"): entry for entry in _TABLE.values()}
    if "://" not in address:
        return known.get(address.split("@")[0])
    place = cache_path(address)
    if file := augreg.file_at(place):
        return _augreg(file)
    return {cache_path(there): entry for there, entry in known.items() if "://" in there}.get(place)


def published_names() -> list[str]:
    """Returns all short names; those of AugReg are the ones that its index completes."""
    return [*_TABLE, *(f"{augreg.FOLDER}/{model}" for model in augreg.MODELS)]


def _augreg(file: augreg.File) -> Published:
    return Published(file.address, google(file.size), file.classes)
