"""The benchmark command: its table, its JSON, and one line for each mistake. Speeds themselves are not asserted."""

import json
import pathlib

import pytest
from PIL import Image

from tests.pretrained.examples import arrays_of, npz, small_weights
from vit_jax.benchmark import main

ROOT = pathlib.Path(__file__).parents[1]
QUICK = ["--mode=data", "--workers=0", "--repeats=2", "--seconds=0.01", "--config.train.batch_size=16"]
DIGITS = [f"--config={ROOT}/configs/digits.py", *QUICK]


@pytest.fixture
def photos(tmp_path):
    """Returns the flags for a folder of JPEG files, one of them broken."""
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / name).mkdir()
        for row in range(8):
            Image.new("RGB", (60 + row, 50), colour).save(tmp_path / name / f"{row}.jpg")
    (tmp_path / "red" / "3.jpg").write_bytes(b"")
    return [f"--config={ROOT}/configs/folder.py:{tmp_path}", *QUICK, "--config.data.train_split=train"]


def speeds(capsys) -> dict[str, list[float]]:
    """Returns the samples of each stage that the command printed as JSON."""
    printed = json.loads(capsys.readouterr().out)
    assert all(sorted(each["samples"])[0] <= each["median"] for each in printed["images_per_second"])
    return {each["name"]: each["samples"] for each in printed["images_per_second"]}


def test_json_lists_every_stage_and_the_whole(capsys, photos):
    assert main([*photos, "--json", "--config.data.in_memory=False"]) == 0
    measured = speeds(capsys)
    assert list(measured) == ["read", "decode whole", "decode and crop", "crop", "augment", "threads"]
    assert all(len(samples) == 2 and min(samples) > 0 for samples in measured.values())


def test_stages_that_do_nothing_are_left_out(capsys):
    assert main([*DIGITS, "--json", "--config.augment.affine.rotation=0.0"]) == 0
    assert "decode whole" not in (named := speeds(capsys))
    assert "augment" in named  # the config's other affine bounds
    off = [f"--config.augment.affine.{bound}=0.0" for bound in ("rotation", "scale", "shear", "shift")]
    assert main([*DIGITS, "--json", *off]) == 0
    assert "augment" not in speeds(capsys)


def test_table_names_the_set_and_each_row(capsys):
    assert main(DIGITS) == 0
    table = capsys.readouterr().out
    assert table.startswith("digits train: 1,437 images to 8x8 pixels\n")
    assert "one thread, each stage alone" in table
    assert "threads" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=data"], "the following arguments are required: --config"),
        ([*DIGITS, "--workers=two"], "--workers must be whole numbers with commas between"),
        ([*DIGITS, "--workers=-1"], "--workers must be whole numbers with commas between"),
        ([*DIGITS, "--repeats=0"], "--repeats must be at least 1"),
        ([*DIGITS, "--mode=dates"], "invalid choice: 'dates'"),
        ([*DIGITS, "--config.augment.crops=pad"], "unknown config key 'augment.crops' (did you mean 'augment.crop'?)"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


SMALL = ["--model=vit", "--batch_size=8", "--image_size=8", "--depth=2", "--repeats=2", "--seconds=0"]
SMALL += [f"--config.model.{field}" for field in ("width=16", "heads=2", "mlp_dim=24", "patch_size=4", "num_classes=5")]


@pytest.fixture
def small_products(monkeypatch):
    """Small matrices in place of those that show the device's full rate."""
    monkeypatch.setattr("vit_jax.measurement.rate.SIZES", {"cpu": (64,)})


def printed(capsys, *arguments: str) -> str:
    """Runs the command, which succeeds, and returns what it printed."""
    assert main([*arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("small_products")
def test_training_as_json(capsys):
    found = json.loads(printed(capsys, "--mode=train", *SMALL, "--dtype=float32,bfloat16", "--against=linen", "--json"))
    assert (found["mode"], found["devices"], found["repeats"]) == ("train", 8, 2)
    assert set(found["matmul_tflops"]) == {"float32", "bfloat16"}
    names = ["vit_jax float32", "vit_jax bfloat16", "linen float32", "linen bfloat16"]
    assert [case["name"] for case in found["cases"]] == names
    for case in found["cases"]:
        milliseconds = sorted(case["samples_milliseconds"])
        assert len(milliseconds) == 2
        assert milliseconds[0] <= case["milliseconds"] <= milliseconds[1]
        rate = found["matmul_tflops"][case["dtype"]]
        assert case["mfu"] == pytest.approx(case["model_tflops"] / rate)
        work = case["model_gflop_per_image"] * 8 / (case["milliseconds"] / 1e3) / 1e3
        assert case["model_tflops"] == pytest.approx(work)
        assert case["compile_seconds"] > 0
        assert case["peak_mebibytes"] > 0
        assert case["failure"] is None
    assert found["cases"][0]["ratio"] == 1.0


@pytest.mark.usefixtures("small_products")
def test_inference_table_has_percentiles_and_the_makers_peak(capsys):
    lines = printed(capsys, "--mode=infer", *SMALL, "--peak_tflops=2").splitlines()
    assert lines[0].startswith("infer on 8 x cpu, jax ")
    assert lines[1].startswith("large products (all devices): float32 ")
    for heading in ("images/s", "ratio", "p50 ms", "p95 ms", "compile s", "MFU", "MFU of peak", "memory MiB"):
        assert heading in lines[2]
    assert lines[3].startswith("vit_jax ")
    assert "1.00" in lines[3].split()


@pytest.mark.usefixtures("small_products")
def test_picture_and_profile(capsys, tmp_path):
    picture = tmp_path / "depth.png"
    more = [f"--plot={picture}", f"--profile={tmp_path / 'traces'}"]
    flags = [flag for flag in SMALL if not flag.startswith("--depth")]
    out = printed(capsys, "--mode=infer", *flags, "--depth=1,2", *more)
    assert f"picture: {picture}" in out
    assert Image.open(picture).format == "PNG"
    for depth in (1, 2):
        assert list((tmp_path / "traces" / f"vit_jax-depth={depth}").rglob("*.xplane.pb"))


@pytest.mark.usefixtures("small_products")
def test_one_case_without_memory_does_not_end_the_others(capsys, monkeypatch):
    from vit_jax.measurement.programs import JaxProgram

    prepare = JaxProgram.prepare

    def failing(program):
        if "bfloat16" in program.label:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte")
        return prepare(program)

    monkeypatch.setattr(JaxProgram, "prepare", failing)
    out = printed(capsys, "--mode=train", *SMALL, "--dtype=bfloat16,float32")
    assert "vit_jax bfloat16: out of memory: RESOURCE_EXHAUSTED" in out
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "ms" not in rows["vit_jax bfloat16"]
    assert "%" not in rows["vit_jax bfloat16"]
    assert "%" in rows["vit_jax float32"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights that lacks what they need to be run (heads)."""
    return npz(tmp_path_factory.mktemp("weights"), arrays_of(small_weights(), "google", tmp_path_factory.mktemp("a")))


@pytest.mark.usefixtures("small_products")
def test_a_checkpoint_as_json_and_as_a_table(capsys, weights, tmp_path):
    flags = ["--mode=infer", f"--checkpoint={weights}", "--config.model.heads=2", "--repeats=2", "--seconds=0"]
    more = ["--batch_size=1,3", "--image-size=8", f"--plot={tmp_path / 'x.png'}", f"--profile={tmp_path / 'traces'}"]
    assert main([*flags, *more, "--json", "--peak_tflops=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["devices"] == 1  # of eight: a loaded model is on one
    assert [case["name"] for case in found["cases"]] == ["vit_jax batch_size=1", "vit_jax batch_size=3"]
    for case, images in zip(found["cases"], (1, 3), strict=True):
        assert case["settings"] == {"checkpoint": str(weights), "batch_size": str(images), "image_size": "8"}
        speeds = [images / sample * 1e3 for sample in case["samples_milliseconds"]]
        assert case["images_per_second"] == pytest.approx(sum(speeds) / 2)
        assert 0 < case["milliseconds_p50"] <= case["milliseconds_p95"]
        assert case["file_megabytes"] == weights.stat().st_size / 1e6
        assert case["load_seconds"] > 0
        assert case["mfu"] == pytest.approx(case["model_tflops"] / found["matmul_tflops"]["float32"])
        assert case["mfu_of_peak"] == pytest.approx(case["model_tflops"] / 2)
        assert list((tmp_path / "traces" / f"vit_jax-batch_size={images}").rglob("*.xplane.pb"))
    assert Image.open(tmp_path / "x.png").format == "PNG"
    assert main(flags) == 0
    _, _, headings, row = capsys.readouterr().out.splitlines()[:4]
    for heading in ("images/s", "p50 ms", "p95 ms", "load s", "file MB", "GFLOP/image", "MFU", "memory MiB"):
        assert heading in headings
    assert row.startswith("vit_jax ")


def test_memory_table_and_json(capsys, monkeypatch):
    """The compilations themselves are those of tests/measurement/test_memory.py."""
    monkeypatch.setattr("vit_jax.measurement.largest.step_bytes", lambda case, size, device: 2**20 * (10 + size))
    flags = ["--mode=memory", "--model=vit_ti16", "--dtype=float32,bfloat16", "--memory=30MiB"]
    title, headings, *rows = printed(capsys, *flags).splitlines()
    assert title == "largest batch whose training step takes at most 0.0293 GiB on one cpu"
    assert headings.split() == ["batch", "size", "GiB", "next", "GiB"]
    assert [row.split() for row in rows] == [[name, "16", "0.03", "24", "0.03"] for name in ("float32", "bfloat16")]
    found = json.loads(printed(capsys, *flags, "--json"))
    assert (found["limit_bytes"], len(found["cases"])) == (30 * 2**20, 2)
    case = found["cases"][0]
    assert (case["batch_size"], case["peak_bytes"], case["next_size"]) == (16, 26 * 2**20, 24)
    assert case["tried"][str(case["batch_size"])] == case["peak_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=train", "--model=vit_q16"], "no model 'vit_q16'"),
        (["--mode=train", "--batch_size=two"], "train.batch_size"),
        (["--mode=train", "--batch_size=8,"], "train.batch_size"),
        (["--mode=train", "--image_size=0"], "data.image_size"),
        (["--mode=train", *SMALL, "--image_size=9"], "image height 9 is not a multiple of patch height 4"),
        (["--mode=train", "--dtype=float8"], "model.dtype must be one of float32, bfloat16, float16"),
        (["--mode=train", *SMALL, "--remat=some"], "remat must be one of none, dots, full, not 'some'"),
        (["--mode=train", *SMALL, "--attention_kernel=flash"], "attention_kernel must be one of auto, plain, cudnn"),
        (["--mode=train", *SMALL, "--attention_kernel=cudnn"], "it needs an NVIDIA GPU"),
        (["--mode=train", *SMALL, "--depth=deep"], "model.depth must be int, not 'deep'"),
        (["--mode=train", *SMALL, "--depth=0"], "depth must be at least 1"),
        (["--mode=train", *SMALL, "--scan_layers=perhaps"], "model.scan_layers must be bool, not 'perhaps'"),
        (["--mode=train", "--batch_size=12"], "not a multiple of 8"),
        (["--mode=train", "--repeats=0"], "--repeats must be at least 1"),
        (["--mode=train", "--seconds=-1"], "--seconds at least 0"),
        (["--mode=train", "--seconds=nan"], "--seconds at least 0"),
        (["--mode=infer", "--peak_tflops=0"], "--peak_tflops must be above 0"),
        (["--mode=train", *SMALL, "--against=torch"], "--against must be of linen, timm, timm_compiled, not 'torch'"),
        (["--mode=train", *SMALL, "--plot=x.jpg"], "--plot writes a .png file"),
        (["--mode=train", *SMALL, "--plot=nowhere/x.png"], "there is no folder nowhere"),
        (["--mode=train", *SMALL, "--plot=x.png"], "give exactly one of --image_size, --depth, --batch_size"),
        (["--mode=train", "--config=nowhere.py"], "no config file 'nowhere.py'"),
        (["--mode=train", "--config.modle.depth=2"], "unknown config key 'modle.depth'"),
        (["--mode=train", "--workers=1"], "--workers is not of --mode=train"),
        (["--mode=train", "--memory=1GiB"], "--memory is not of --mode=train"),
        (["--mode=memory"], "the following arguments are required: --memory"),
        (["--mode=memory", "--memory=lots"], "--memory must be a size such as 16GiB"),
        (["--mode=memory", "--memory=1GiB", "--batch_size=8"], "--batch_size is not of --mode=memory"),
        ([*DIGITS, "--dtype=bfloat16"], "--dtype is not of --mode=data"),
        (["--mode=train", "--checkpoint=x"], "--checkpoint is not of --mode=train"),
        (["--mode=infer", "--checkpoint=nowhere.npz"], "nowhere.npz"),
        (["--mode=infer", "--checkpoint="], "--checkpoint= has an empty value"),
        (["--mode=infer", "--checkpoint=x", "--config=y.py"], "so it does not go with --config"),
        (["--mode=infer", "--checkpoint=x", "--against=linen"], "so it does not go with --against"),
        (["--mode=infer", "--checkpoint=x", "--depth=2"], "--depth and --checkpoint do not go together"),
    ],
)
def test_mistakes_of_the_other_modes_are_one_line(capsys, arguments, message):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_jax_leaves_memory_to_pytorch_only_where_both_run(monkeypatch):
    import os

    from vit_jax.benchmark import parse

    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    parse(["--mode=train", "--against=linen"])
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
    parse(["--mode=train", "--against=linen,timm_compiled"])
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
