"""The view of evaluation: short side, centre crop, Pillow's filters; and how far decoding may shrink before them."""

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vit_jax.data.decode import Pixels, open_image
from vit_jax.data.host import ELONGATED, HostTransform
from vit_jax.data.resize import centre_cropped, grown_to, resized

MIDDLE = np.full(HostTransform((8, 6)).draws, 0.5)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int, scale: float = 1) -> np.ndarray:
    """Returns a picture without sharp edges, which interpolation leaves nearly as it is."""
    y, x = np.mgrid[:height, :width] / scale
    waves = [np.sin(x / 5) + np.cos(y / 7), np.cos(x / 9) - np.sin(y / 4), np.sin((x + y) / 8)]
    return np.uint8(127 + 60 * np.stack(waves, -1))


def jpeg(image: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(image, 95, "RGB", "420")


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "grown", "box"),
    [
        ((40, 60), (32, 48), (12, 4, 36, 28)),
        ((60, 40), (48, 32), (4, 12, 28, 36)),
        ((20, 20), (32, 32), (4, 4, 28, 28)),
    ],
)
def test_evaluation_resizes_the_short_side_and_crops_the_centre(shape, grown, box, interpolation):
    image = noise(*shape)
    view = HostTransform((24, 24), resize=32, interpolation=interpolation).evaluate(image)
    method = getattr(Image.Resampling, interpolation.upper())
    expected = np.asarray(Image.fromarray(image).resize(grown[::-1], method).crop(box))
    assert np.abs(view.astype(int) - expected).max() <= 1


def test_evaluation_without_resize_squashes_the_whole_image():
    image = noise(40, 60)
    view = HostTransform((24, 16)).evaluate(image)
    expected = np.asarray(Image.fromarray(image).resize((16, 24), Image.Resampling.BILINEAR))
    assert np.abs(view.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (3, 1001), (40, 1500), (5000, 256)])
def test_of_a_long_image_only_the_middle_is_resized(shape, interpolation):
    """The same to a grey level as resizing the whole, of which 1x100,000 pixels would take 20 GB."""
    image, transform = noise(*shape), HostTransform((24, 20), resize=27, interpolation=interpolation)
    grown = grown_to(shape, 27, (24, 20))
    assert max(grown) > ELONGATED * 24
    expected = centre_cropped(resized(image, grown, interpolation), (24, 20))
    assert np.abs(transform.evaluate(image).astype(int) - expected).max() <= 1


def test_an_image_of_a_million_pixels_in_a_row_takes_little_memory():
    image = np.full((1, 10**6, 3), 7, np.uint8)
    for antialias in (True, False):
        for turned in (image, image.swapaxes(0, 1)):
            view = HostTransform((224, 224), resize=256, antialias=antialias).evaluate(turned)
            assert view.shape == (224, 224, 3)
            assert (view == 7).all()


def test_evaluation_view_is_centred():
    image, transform = smooth(32, 48), HostTransform((24, 24), resize=28)
    there, mirrored = transform.evaluate(image), transform.evaluate(image[::-1, ::-1])[::-1, ::-1]
    assert np.abs(there.astype(int) - mirrored).max() <= 1


def test_evaluation_is_pillows_resize_and_centre_crop():
    image = smooth(300, 400, scale=6)
    transform = HostTransform((224, 224), resize=256, interpolation="bicubic")
    grown = Image.fromarray(image).resize((341, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(grown.crop((58, 16, 58 + 224, 16 + 224))).astype(int)
    assert np.abs(transform.evaluate(image) - expected).max() == 0
    assert np.abs(transform.evaluate(jpeg(image)) - expected).mean() <= 1


class Noted(Pixels):
    """Pixels that note what is asked of them."""

    def region(self, box, least):
        self.asked = box, least
        return super().region(box, least)


@pytest.mark.parametrize(("crop", "least"), [("none", (24, 16)), ("pad", (24, 16)), ("random", (32, 24))])
def test_training_may_shrink_to_the_size_it_needs(crop, least):
    image = Noted(noise(90, 120))
    HostTransform((24, 16), crop=crop).cropped(image, MIDDLE)
    assert image.asked == ((0, 0, 120, 90), least)


@pytest.mark.parametrize(("resize", "least"), [(None, (48, 32)), (30, (60, 80))])
def test_evaluation_leaves_half_of_the_shrinking_to_the_filter(resize, least):
    image = Noted(noise(90, 120))
    HostTransform((24, 16), resize=resize).centred(image)
    assert image.asked == ((0, 0, 120, 90), least)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_filter_that_was_asked_for(interpolation, antialias):
    image, transform = noise(40, 60), HostTransform((12, 9), interpolation=interpolation, antialias=antialias)
    expected = resized(image, (12, 9), interpolation, antialias)
    np.testing.assert_array_equal(transform.evaluate(image), expected)
    np.testing.assert_array_equal(transform.train(image, MIDDLE), expected)


def test_evaluation_of_a_large_jpeg_that_is_shrunk_while_it_is_decoded():
    image = smooth(1200, 1600, scale=24)
    transform = HostTransform((224, 224), resize=256, interpolation="bicubic")
    pixels, _ = open_image(jpeg(image)).region((0, 0, 1600, 1200), (512, 682))
    assert pixels.shape == (600, 800, 3)
    grown = Image.fromarray(image).resize((341, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(grown.crop((58, 16, 58 + 224, 16 + 224))).astype(int)
    assert np.abs(transform.evaluate(jpeg(image)) - expected).mean() <= 1
