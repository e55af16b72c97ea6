"""What files say in different ways: prefixes, numberings, towers, old names, and what lies beside them."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.pretrained.examples import arrays_of, npz, refused, same_params, small_weights, torch_folder
from vit_jax.data.imagenet import imagenet_classes
from vit_jax.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vit_jax.errors import UserError
from vit_jax.inference.model import load_model
from vit_jax.pretrained import big_vision, google
from vit_jax.pretrained.load import load_weights
from vit_jax.pretrained.names import write
from vit_jax.pretrained.save import save_weights
from vit_jax.pretrained.timm import HEADS, heads_of
from vit_jax.pretrained.timm_config import told_by_architecture
from vit_jax.pretrained.weights import POSITIONS


def extra(arrays, **more) -> dict[str, np.ndarray]:
    """Returns arrays with more of them, small ones, whose names are written with `__` for a slash or a dot."""
    separator = "/" if any("/" in name for name in arrays) else "."
    return {**arrays, **{name.replace("__", separator): np.ones(3, np.float32) for name in more}}


class TestGoogle:
    @pytest.fixture
    def arrays(self, tmp_path):
        return arrays_of(small_weights(), "google", tmp_path)

    @pytest.mark.parametrize("prefix", ["opt/target/", "params/"])
    def test_a_prefix_is_cut_off(self, prefix, arrays, tmp_path):
        stored = {prefix + name: array for name, array in arrays.items()}
        if prefix == "opt/target/":
            stored["opt/state/step"] = np.ones((), np.int32)
        weights = load_weights(str(npz(tmp_path, stored)))
        assert same_params(weights.params, small_weights().params)
        assert weights.unused == (("opt/state/step (unknown)",) if prefix == "opt/target/" else ())

    def test_bfloat16_of_two_bytes_without_a_type(self, arrays, tmp_path):
        path = npz(tmp_path, {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()})
        assert np.load(path)["cls"].dtype == "V2"
        weights = load_weights(str(path))
        rounded = {n: a.astype(ml_dtypes.bfloat16).astype(np.float32) for n, a in small_weights().params.items()}
        assert same_params(weights.params, rounded)
        assert all(array.dtype == np.float32 for array in weights.params.values())

    def test_both_numberings(self, arrays, tmp_path):
        weights = small_weights()
        linen = write(google.table_of(weights.module, google.LINEN), weights.params, "Google")
        assert len(linen.keys() - arrays.keys()) > 20
        for stored in (arrays, linen):
            back = load_weights(str(npz(tmp_path, stored)))
            assert same_params(back.params, weights.params)
            assert back.fields == weights.fields

    def test_group_norms_with_axes_of_length_one(self, tmp_path):
        weights = small_weights("hybrid", (16, 16), stages=(1, 1), stem_width=32, patch_size=(1, 1))
        arrays = arrays_of(weights, "google", tmp_path)
        norms = [name for name in arrays if "gn" in name]
        assert len(norms) == 2 * (1 + 2 * 4)
        stored = {**arrays, **{name: arrays[name].reshape(1, 1, 1, -1) for name in norms}}
        assert same_params(load_weights(str(npz(tmp_path, stored))).params, weights.params)

    def test_what_is_unknown_in_the_trunk_is_refused_elsewhere_named(self, arrays, tmp_path):
        for name in ("Transformer__encoderblock_0__gate", "conv_root__kernel_2", "embedding__extra"):
            message = refused(npz(tmp_path, extra(arrays, **{name: 1})))
            assert name.replace("__", "/") in message.replace("{0}", "0")
            assert "belongs to no part" in message
        weights = load_weights(str(npz(tmp_path, extra(arrays, aux_head__bias=1, ema__step=1))))
        assert weights.unused == ("aux_head/bias (unknown)", "ema/step (unknown)")

    def test_1000_classes_are_imagenets(self, tmp_path):
        weights = small_weights(num_classes=5)
        arrays = arrays_of(weights, "google", tmp_path)
        arrays |= {"head/kernel": np.ones((16, 1000), np.float32), "head/bias": np.zeros(1000, np.float32)}
        back = load_weights(str(npz(tmp_path, arrays)))
        assert back.class_names == imagenet_classes()
        assert len(back.notes) == 1
        assert "ImageNet" in back.notes[0]
        assert load_weights(str(npz(tmp_path, arrays_of(weights, "google", tmp_path)))).class_names is None

    def test_the_preprocessing_is_googles(self, arrays, tmp_path):
        assert load_weights(str(npz(tmp_path, arrays))).preprocessing == Preprocessing((8, 8), antialias=False)

    def test_a_size_that_the_file_does_not_tell(self, tmp_path):
        path = npz(tmp_path, arrays_of(small_weights(size=(8, 12)), "google", tmp_path))
        assert load_weights(str(path)).image_size is None
        assert load_weights(str(path), (8, 12)).image_size == (8, 12)
        assert "embedding" in refused(path, image_size=(16, 16))

    def test_overrides_are_the_models_fields(self, arrays, tmp_path):
        path = npz(tmp_path, arrays)
        assert load_weights(str(path), gelu="exact").module.gelu == "exact"
        assert "no field 'gelo' (did you mean 'gelu'?)" in refused(path, gelo="exact")
        assert "heads must be int" in refused(path, heads="two")


class TestBigVision:
    def arrays(self, weights) -> dict[str, np.ndarray]:
        return write(big_vision.table_of(weights.module), weights.params, "big_vision")

    def test_the_image_tower_of_two(self, tmp_path):
        weights = small_weights(pool="map", num_classes=0)
        arrays = {f"params/img/{name}": array for name, array in self.arrays(weights).items()}
        text = ("txt/Encoder_0/encoderblock_0/x", "txt/Encoder_0/encoderblock_1/x", "txt/head/kernel", "t", "b")
        arrays |= {f"params/{name}": np.ones(3, np.float32) for name in text}
        back = load_weights(str(npz(tmp_path, arrays)))
        assert same_params(back.params, weights.params)
        assert back.fields == weights.fields
        assert back.unused == (
            "txt/… (the text tower)",
            "t (of the loss between image and text)",
            "b (of the loss between image and text)",
        )

    def test_an_early_file_has_its_map_head_at_the_root_and_positions_in_the_transformer(self, tmp_path):
        weights = small_weights(pool="map")
        arrays = self.arrays(weights)
        early = {name.removeprefix("MAPHead_0/"): array for name, array in arrays.items()}
        early["Transformer/pos_embedding"] = early.pop("pos_embedding")
        assert "probe" in early
        assert len(early) == len(arrays)
        for stored in (arrays, early):
            back = load_weights(str(npz(tmp_path, stored)))
            assert same_params(back.params, weights.params)
            assert back.fields == weights.fields

    @pytest.mark.parametrize("name", ["MAPHead_0__LayerNorm_1__scale", "Transformer__encoderblock_1__gate"])
    def test_what_is_unknown_in_the_trunk_is_refused(self, name, tmp_path):
        arrays = extra(self.arrays(small_weights(pool="map")), **{name: 1})
        assert "belongs to no part" in refused(npz(tmp_path, arrays))

    def test_no_positions_are_sincos2d(self, tmp_path):
        weights = small_weights(pool="gap", position="sincos2d")
        back = load_weights(str(npz(tmp_path, self.arrays(weights))))
        assert (back.fields, back.image_size) == (weights.fields, None)
        assert load_weights(str(npz(tmp_path, self.arrays(weights))), (8, 12)).image_size == (8, 12)


def timm_arrays(tmp_path, **options) -> dict[str, np.ndarray]:
    return arrays_of(small_weights(**{"gelu": "exact", **options}), "timm", tmp_path)


class TestTimm:
    def test_heads_are_asked_for_where_nothing_tells_them(self, tmp_path):
        arrays = timm_arrays(tmp_path)
        assert "heads=N" in refused(torch_folder(tmp_path, arrays))
        for known, documents in (({"heads": 2}, {}), ({}, {"config": {"model_args": {"num_heads": 2}}})):
            weights = load_weights(str(torch_folder(tmp_path, arrays, **documents)), **known)
            assert same_params(weights.params, small_weights(gelu="exact").params)
        assert "heads" in refused(torch_folder(tmp_path, arrays), heads=3)
        assert {width: heads_of({}, {}, width) for width in (192, 384, 768, 1024)} == {
            192: 3,
            384: 6,
            768: 12,
            1024: 16,
        }
        assert all(width % heads == 0 for width, heads in HEADS.items())

    def test_a_file_in_place_of_its_folder(self, tmp_path):
        folder = torch_folder(tmp_path, timm_arrays(tmp_path), config={"model_args": {"num_heads": 2}})
        weights = load_weights(str(folder / "model.safetensors"))
        assert same_params(weights.params, small_weights(gelu="exact").params)

    def test_positions_of_registers_become_part_of_them(self, tmp_path):
        weights, generator = small_weights(registers=3, gelu="exact"), np.random.default_rng(4)
        arrays = timm_arrays(tmp_path, registers=3)
        assert arrays["pos_embed"].shape == (1, 1 + 3 + 4, 16)
        assert not arrays["pos_embed"][:, 1:4].any()
        arrays["pos_embed"][:, 1:4] = moved = generator.normal(size=(1, 3, 16)).astype(np.float32)
        back = load_weights(str(torch_folder(tmp_path, arrays)), heads=2)
        assert same_params(back.params, {**weights.params, "registers": weights.params["registers"] + moved})

    @pytest.mark.parametrize("rows", [1 + 4, 4])
    def test_positions_of_cls_and_patches_or_of_patches_alone(self, rows, tmp_path):
        arrays = timm_arrays(tmp_path, registers=2)
        arrays["pos_embed"] = arrays["pos_embed"][:, -rows:]
        back = load_weights(str(torch_folder(tmp_path, arrays)), (8, 8), heads=2)
        assert back.module.cls_position == (rows == 5)
        np.testing.assert_array_equal(back.params[POSITIONS], arrays["pos_embed"])
        np.testing.assert_array_equal(back.params["registers"], arrays["reg_token"])

    def test_a_number_of_positions_that_fits_no_image(self, tmp_path):
        folder = torch_folder(tmp_path, timm_arrays(tmp_path))
        assert "5 rows, which is not that of 9 patches" in refused(folder, image_size=(12, 12), heads=2)

    def test_25_positions_are_of_two_images(self, tmp_path):
        """Of a cls token and 4x6 patches, or of 5x5 patches: a note says what was assumed, a size settles it."""
        arrays = timm_arrays(tmp_path, size=(16, 24))
        assert arrays["pos_embed"].shape[1] == 25
        path = str(torch_folder(tmp_path, arrays))
        assumed = load_weights(path, heads=2)
        assert (assumed.module.cls_position, assumed.image_size) == (True, None)
        assert "25 positions" in assumed.notes[-1]
        assert "image_size" in assumed.notes[-1]
        for size, cls_position in (((16, 24), True), ((24, 16), True), ((20, 20), False)):
            settled = load_weights(path, size, heads=2)
            assert (settled.module.cls_position, settled.image_size) == (cls_position, size)
            assert not any("25 positions" in note for note in settled.notes)

    def test_an_image_settles_it_too(self, tmp_path):
        path = str(torch_folder(tmp_path, timm_arrays(tmp_path, size=(16, 24))))
        generator = np.random.default_rng(5)
        wide, square = (generator.normal(size=(1, *size, 3)).astype(np.float32) for size in ((16, 24), (20, 20)))
        model = load_model(path, heads=2)
        first = model.logits(wide)
        assert model.module.cls_position
        second = model.logits(square)
        assert not model.module.cls_position
        np.testing.assert_allclose(first, load_model(path, (16, 24), heads=2).logits(wide), atol=1e-5)
        np.testing.assert_allclose(second, load_model(path, (20, 20), heads=2).logits(square), atol=1e-5)

    def test_dinov2s_own_names(self, tmp_path):
        options = {"registers": 2, "mlp": "swiglu", "layer_scale": 0.5, "num_classes": 0}
        arrays = timm_arrays(tmp_path, **options)
        arrays["pos_embed"] = arrays["pos_embed"][:, [0, 3, 4, 5, 6]]
        for ours, theirs in ((".mlp.fc1.", ".mlp.w12."), (".mlp.fc2.", ".mlp.w3."), ("reg_token", "register_tokens")):
            assert any(ours in name for name in arrays)
            arrays = {name.replace(ours, theirs): array for name, array in arrays.items()}
        arrays["mask_token"] = np.zeros((1, 16), np.float32)
        back = load_weights(str(torch_folder(tmp_path, arrays)), (8, 8), heads=2)
        assert same_params(back.params, small_weights(gelu="exact", **options).params)
        assert back.module.mlp == "swiglu"
        assert back.unused == ("mask_token (replaces masked patches in pre-training)",)

    def test_deit_iiis_own_names(self, tmp_path):
        arrays = timm_arrays(tmp_path, layer_scale=0.5)
        old = {
            name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): a for name, a in arrays.items()
        }
        assert "blocks.1.gamma_2" in old
        back = load_weights(str(torch_folder(tmp_path, old)), heads=2)
        assert same_params(back.params, small_weights(gelu="exact", layer_scale=0.5).params)

    def test_deit_iii_as_timm_keeps_it(self, tmp_path):
        """Without config.json, `heads` and `layer_scale` are what the catalogue tells of the published files."""
        weights = small_weights("deit3_s16")
        save_weights(weights, tmp_path / "out", "timm")
        told = load_weights(str(tmp_path / "out"))
        untold = load_weights(str(tmp_path / "out" / "model.safetensors"), (8, 8), heads=2, layer_scale=1e-6)
        for back in (told, untold):
            assert same_params(back.params, weights.params)
            assert back.module == weights.module

    def test_what_is_unknown_in_the_trunk_is_refused_elsewhere_named(self, tmp_path):
        arrays = timm_arrays(tmp_path)
        for name in ("blocks__0__attn__relative", "patch_embed__norm__weight", "norm_pre__bias", "attn_pool__x"):
            assert "belongs to no part" in refused(torch_folder(tmp_path, extra(arrays, **{name: 1})), heads=2)
        known = extra(arrays, decoder__0__weight=1, decoder__1__weight=1, aux__weight=1)
        back = load_weights(str(torch_folder(tmp_path, known)), heads=2)
        assert set(back.unused) == {"decoder.{0..1}.weight (a head of the pre-training)", "aux.weight (unknown)"}

    def test_what_config_json_tells(self, tmp_path):
        arrays = timm_arrays(tmp_path)
        arguments = {"num_heads": 2, "act_layer": "gelu_tanh"}
        for names in (list("abcde"), {str(i): name for i, name in enumerate("abcde")}):
            config = {"model_args": arguments, "label_names": names}
            back = load_weights(str(torch_folder(tmp_path, arrays, config=config)))
            assert (back.module.gelu, back.class_names) == ("tanh", list("abcde"))
        config = {"model_args": {"num_heads": 2, "act_layer": "relu"}}
        assert "'relu'" in refused(torch_folder(tmp_path, arrays, config=config))
        config = {"model_args": {"num_heads": 2}, "label_names": ["one"]}
        assert "1 class names for 5 classes" in refused(torch_folder(tmp_path, arrays, config=config))

    @pytest.mark.parametrize(
        ("stated", "seen"),
        [
            ({}, Preprocessing((8, 8), 8, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD)),
            (
                {"crop_pct": 0.5, "interpolation": "bilinear", "mean": [0.1] * 3, "std": [0.2] * 3},
                Preprocessing((8, 8), 16, "bilinear", mean=(0.1,) * 3, std=(0.2,) * 3),
            ),
            (
                {"crop_pct": 0.95, "crop_mode": "squash"},
                Preprocessing((8, 8), None, "bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
            ),
        ],
    )
    def test_the_preprocessing_of_config_json(self, stated, seen, tmp_path):
        config = {"model_args": {"num_heads": 2}, "pretrained_cfg": {"input_size": [3, 8, 8], **stated}}
        assert load_weights(str(torch_folder(tmp_path, timm_arrays(tmp_path), config=config))).preprocessing == seen


HEADS_2 = {"num_attention_heads": 2}


def hf_arrays(tmp_path, **options) -> dict[str, np.ndarray]:
    return arrays_of(small_weights(**{"gelu": "exact", **options}), "huggingface", tmp_path)


class TestHuggingFace:
    def test_without_config_json_heads_are_asked_for(self, tmp_path):
        folder = torch_folder(tmp_path, hf_arrays(tmp_path))
        assert "heads=N" in refused(folder)
        back = load_weights(str(folder), heads=2)
        assert same_params(back.params, small_weights().params)
        assert (back.module.gelu, back.module.norm_epsilon) == ("exact", 1e-12)
        assert back.image_size == (8, 8)
        assert back.preprocessing == Preprocessing((8, 8))

    def test_a_bare_model_has_a_pooler_and_a_classifier_does_not_use_one(self, tmp_path):
        options = {"pre_logits": 16, "num_classes": 0}
        arrays = hf_arrays(tmp_path, **options)
        assert "pooler.dense.weight" in arrays
        back = load_weights(str(torch_folder(tmp_path, arrays, config=HEADS_2)))
        assert same_params(back.params, small_weights(**options).params)
        arrays = hf_arrays(tmp_path) | {f"vit.{n}": a for n, a in arrays.items() if n.startswith("pooler")}
        back = load_weights(str(torch_folder(tmp_path, arrays, config=HEADS_2)))
        assert back.module.pre_logits is None
        assert all(line.endswith("(a pooler that the classifier does not use)") for line in back.unused)
        assert len(back.unused) == 2

    def test_parts_with_an_index(self, tmp_path):
        arrays = hf_arrays(tmp_path)
        folder = torch_folder(tmp_path, {}, config=HEADS_2)
        (folder / "model.safetensors").unlink()
        parts = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(arrays)}
        for part in set(parts.values()):
            save_file({name: arrays[name] for name in arrays if parts[name] == part}, folder / part)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
        assert same_params(load_weights(str(folder)).params, small_weights().params)
        (folder / "model-00002-of-00002.safetensors").unlink()
        assert "'model-00002-of-00002.safetensors', which is not in the folder" in refused(folder)

    def test_an_index_leads_nowhere_else(self, tmp_path):
        folder = torch_folder(tmp_path, hf_arrays(tmp_path), config=HEADS_2)
        for part in ("../torch0/model.safetensors", str(folder / "model.safetensors"), 3):
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
            assert "which is not in the folder" in refused(folder)

    @pytest.mark.parametrize(
        ("names", "expected"), [("abcde", list("abcde")), ([f"LABEL_{i}" for i in range(5)], None), ("abc", None)]
    )
    def test_class_names(self, names, expected, tmp_path):
        config = HEADS_2 | {"id2label": {str(i): name for i, name in enumerate(names)}}
        assert load_weights(str(torch_folder(tmp_path, hf_arrays(tmp_path), config=config))).class_names == expected

    def test_what_config_json_tells(self, tmp_path):
        arrays = hf_arrays(tmp_path)
        config = HEADS_2 | {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "model_type": "vit", "image_size": [8, 8]}
        back = load_weights(str(torch_folder(tmp_path, arrays, config=config)))
        assert (back.module.gelu, back.module.norm_epsilon, back.image_size) == ("tanh", 1e-5, (8, 8))
        for wrong, said in (({"hidden_act": "relu"}, "'relu'"), ({"model_type": "swin"}, "'swin'")):
            assert said in refused(torch_folder(tmp_path, arrays, config=config | wrong))
        assert "position_embeddings" in refused(torch_folder(tmp_path, arrays, config=config | {"image_size": 16}))

    def test_what_is_unknown_in_the_trunk_is_refused_elsewhere_named(self, tmp_path):
        arrays = hf_arrays(tmp_path)
        for name in ("vit__encoder__layer__0__gate", "vit__embeddings__more", "vit__layernorm__more"):
            assert "belongs to no part" in refused(torch_folder(tmp_path, extra(arrays, **{name: 1}), config=HEADS_2))
        known = extra(arrays, decoder__norm__weight=1, aux__weight=1, vit__embeddings__mask_token=1)
        back = load_weights(str(torch_folder(tmp_path, known, config=HEADS_2)))
        assert set(back.unused) == {
            "decoder.norm.weight (the decoder of the pre-training)",
            "aux.weight (unknown)",
            "vit.embeddings.mask_token (replaces masked patches in pre-training)",
        }

    @pytest.mark.parametrize(
        ("stated", "seen"),
        [
            ({"size": {"height": 8, "width": 12}, "resample": 3}, Preprocessing((8, 12), None, "bicubic")),
            ({"size": 10}, Preprocessing((10, 10))),
            (
                {"size": {"shortest_edge": 12}, "do_center_crop": True, "crop_size": {"height": 8, "width": 10},
                 "image_mean": [0.1] * 3, "image_std": [0.2] * 3, "resample": 0},
                Preprocessing((8, 10), 12, "nearest", mean=(0.1,) * 3, std=(0.2,) * 3),
            ),
            ({"size": {"shortest_edge": 12}, "do_center_crop": True, "crop_size": 8}, Preprocessing((8, 8), 12)),
        ],
    )  # fmt: skip
    def test_the_preprocessing_beside_it(self, stated, seen, tmp_path):
        folder = torch_folder(tmp_path, hf_arrays(tmp_path), config=HEADS_2, preprocessor_config=stated)
        assert load_weights(str(folder)).preprocessing == seen

    def test_dinov2_without_a_preprocessing(self, tmp_path):
        folder = torch_folder(tmp_path, hf_arrays(tmp_path, layer_scale=0.5, pool="cls_gap"), config=HEADS_2)
        seen = load_weights(str(folder)).preprocessing
        assert (seen.size, seen.resize) == ((8, 8), round(256 * 8 / 224))
        assert (seen.interpolation, seen.mean) == ("bicubic", IMAGENET_MEAN)


@pytest.mark.parametrize(
    ("architecture", "field", "expected"),
    [
        ("vit_base_patch16_clip_224", "norm_epsilon", 1e-5),
        ("vit_giantopt_patch16_siglip_256", "heads", 16),
        ("vit_so400m_patch16_siglip_256", "gelu", "tanh"),
        ("vit_base_patch16_224", "gelu", None),
    ],
)
def test_what_only_timms_architecture_tells(architecture, field, expected):
    assert told_by_architecture({"architecture": architecture}).get(field) == expected


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_base_patch16_clip_quickgelu_224"},
        {"architecture": "vit_base_patch16_rpn_224"},
        {"model_args": {"norm_layer": "rmsnorm"}},
    ],
)
def test_timm_models_that_are_computed_otherwise_are_refused(config):
    with pytest.raises(UserError, match=r"config\.json: "):
        told_by_architecture(config)
