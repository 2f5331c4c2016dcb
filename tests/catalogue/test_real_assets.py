"""The real assets, converted: known answers that a wrong byte layout could not give."""

import pytest
import torch

import patchclamp as pc

pytestmark = pytest.mark.assets


def test_smollm2_knows_the_capital_of_spain(smollm2: pc.Model) -> None:
    top = smollm2.top("The capital of Spain is", 2)
    assert list(top["token"]) == [" Madrid", " Barcelona"]
    assert top["probability"][0] == pytest.approx(0.377, abs=0.01)
    assert smollm2.sites.n_layers == 30
    assert pc.catalogue.verify("smollm2-135m")


def test_stories_knows_lily(stories: pc.Model) -> None:
    top = stories.top("Once upon a time, there was a little girl named", 1)
    assert top["token"][0] == " L"
    assert top["probability"][0] == pytest.approx(0.913, abs=0.01)
    text = str(stories.generate("Once upon a time", max_new_tokens=12))
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
    assert stories.tokens("Once upon a time")[0] == "<s>"


def test_mnist_is_whole() -> None:
    digits = pc.catalogue.mnist()
    assert digits.train_images.shape == (60000, 28, 28)
    assert digits.test_images.shape == (10000, 28, 28)
    assert torch.bincount(digits.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert digits.test_labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_fashion_mnist_is_whole() -> None:
    clothes = pc.catalogue.fashion_mnist()
    assert clothes.train_images.shape == (60000, 28, 28)
    assert torch.bincount(clothes.train_labels).tolist() == [6000] * 10
    assert torch.bincount(clothes.test_labels).tolist() == [1000] * 10
    first = [pc.catalogue.FASHION[label] for label in clothes.test_labels[:4].tolist()]
    assert first == ["ankle boot", "pullover", "trousers", "trousers"]
    trousers, boot = (clothes.test_images[index].float() for index in (2, 0))
    assert trousers[:, 10:18].sum() > 0.7 * trousers.sum(), "an upright shape in the middle"
    assert boot[:, 10:18].sum() < 0.5 * boot.sum()


def test_gutenberg_and_capitals() -> None:
    books = pc.catalogue.gutenberg()
    assert len(books) == 18
    assert "Call me Ishmael." in books["melville-moby_dick"]
    assert list(pc.catalogue.gutenberg("carroll-alice")) == ["carroll-alice"]
    with pytest.raises(pc.InputError, match="did you mean 'carroll-alice'"):
        pc.catalogue.gutenberg("carrol-alice")
    capitals = {country.name: country.capital for country in pc.catalogue.capitals()}
    assert (capitals["Spain"], capitals["Italy"], capitals["Japan"]) == ("Madrid", "Rome", "Tokyo")
    assert all(isinstance(capital, str) and capital for capital in capitals.values())


@pytest.mark.slow
def test_resnet_names_a_photograph() -> None:
    from PIL import Image
    from skimage import data_dir

    model = pc.load("resnet50-imagenet")
    picture = Image.open(f"{data_dir}/coffee.png").convert("RGB").crop((100, 0, 500, 400)).resize((224, 224))
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(224, 224, 3).permute(2, 0, 1)
    mean = torch.tensor([123.68, 116.779, 103.939])[:, None, None]
    top = model.top((pixels.float() - mean).unsqueeze(0), 1)
    assert top["token"][0] == "espresso"
    assert top["probability"][0] > 0.99
