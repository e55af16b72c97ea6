"""timm's Vision Transformer in PyTorch, of the same sizes, plain and compiled. PyTorch is loaded here alone, on use."""

import contextlib
import dataclasses
import importlib
import time
from collections.abc import Iterator

import jax

from vit_jax.errors import UserError
from vit_jax.measurement.cases import Case
from vit_jax.measurement.peers import peer_sizes
from vit_jax.measurement.programs import Call, Facts, Work, work_of

TORCH_DTYPES = ("float32", "bfloat16")


def require_torch() -> None:
    """Raises a `UserError` where PyTorch or timm is not installed, or cannot be loaded."""
    try:
        for module in ("torch", "timm.models.vision_transformer"):
            importlib.import_module(module)
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--against=timm needs PyTorch and timm ({reason}); pip install torch timm") from error


@dataclasses.dataclass
class TimmProgram:
    """A forward pass, or a training step with a cross-entropy and the config's optimizer, fused.

    On the GPU where PyTorch sees one, else on the CPU. As is usual there: scaled dot-product attention, images
    channels_last, bfloat16 by autocast. In float32 products may use TF32, as JAX's do by default.
    """

    label: str
    by: str
    case: Case
    work: Work
    mode: str
    compiled: bool

    def prepare(self) -> Facts:
        """Builds the model and runs it once; compiled, that takes the compilation."""
        import torch

        sizes, config = peer_sizes(self.case, self.mode), self.case.config
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.cuda = self.device.type == "cuda"
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.network = self._network(sizes)
        self.forward = torch.compile(self.network) if self.compiled else self.network
        self.optimizer = self._optimizer() if self.mode == "train" else None
        shape = (self.work.images, 3, sizes.image, sizes.image)
        self.pixels = torch.randn(shape, device=self.device).to(memory_format=torch.channels_last)
        self.labels = torch.arange(self.work.images, device=self.device) % 2
        begun = time.perf_counter()
        self._call()
        self._wait()
        seconds = time.perf_counter() - begun
        self._call()
        self._wait()
        peak = torch.cuda.max_memory_allocated() if self.cuda else None
        return Facts(seconds if self.compiled else None, peak, None)

    def _network(self, sizes):
        import torch
        from timm.models.vision_transformer import VisionTransformer

        network = VisionTransformer(
            img_size=sizes.image,
            patch_size=sizes.patch,
            num_classes=sizes.classes,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            mlp_ratio=sizes.mlp_dim / sizes.width,
        )
        return network.to(self.device, memory_format=torch.channels_last).train(self.mode == "train")

    def _optimizer(self):
        import torch

        opt, parameters = self.case.config.optimizer, self.network.parameters()
        if opt.name == "sgd":
            return torch.optim.SGD(parameters, opt.lr, momentum=opt.momentum, weight_decay=opt.weight_decay, fused=True)
        return torch.optim.AdamW(
            parameters, opt.lr, betas=opt.betas, eps=opt.eps, weight_decay=opt.weight_decay, fused=True
        )

    def _call(self) -> None:
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.dtype == "bfloat16"):
            if self.mode == "infer":
                with torch.inference_mode():
                    self.forward(self.pixels)
                return
            loss = torch.nn.functional.cross_entropy(self.forward(self.pixels), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _wait(self) -> None:
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def running(self) -> Iterator[tuple[Call, Call]]:
        """Returns what starts one call and what waits until all are done; afterwards spare memory is given back."""
        import torch

        yield self._call, self._wait
        if self.cuda:
            torch.cuda.empty_cache()

    def trace(self, folder: str) -> bool:
        """Returns False: this is not JAX's profiler's to see."""
        return False


def timm_program(case: Case, mode: str, label: str, compiled: bool) -> TimmProgram:
    """Returns timm's side of a case.

    Raises:
      UserError: PyTorch or timm is missing, or the case is not one that a plain ViT and a plain step stand for.
    """
    require_torch()
    peer_sizes(case, mode)
    if case.dtype not in TORCH_DTYPES:
        raise UserError(f"--against=timm compares {' and '.join(TORCH_DTYPES)}, not {case.dtype}")
    if jax.device_count() > 1:
        raise UserError(f"--against=timm compares one device; JAX sees {jax.device_count()} (CUDA_VISIBLE_DEVICES=0)")
    by = "timm_compiled" if compiled else "timm"
    return TimmProgram(label, by, case, work_of(case.experiment(), mode), mode, compiled)
