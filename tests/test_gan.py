"""GANs through the same commands: training, resuming, judging, generating."""

import copy
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compare import record, same
from conftest import ROOT, picture, presets_of, resumes_bit_for_bit, train_in, write_mnist
from PIL import Image

import engine.tasks.gan
import models
from analysis import bench
from cli import presets
from config import Config
from data.loaders import Batch
from data.transforms import Preprocess
from engine.device import Device
from engine.gan_evaluator import GanEvaluator, difference, frechet
from engine.messages.gan import GanMessages
from engine.tasks.base import NonFiniteError
from engine.tasks.gan import AT_ONCE, Gan, bce, r1_penalty, random_translate
from utils import checkpoints

FLAGS = ["--dataset=MNIST", "--model=MNISTGAN", "--batch-size=10", "--max-epoch=2", "--use-gpu=false"]
FLAGS += ["--vis-port=None", "--amp=off"]
SMALL = ["--dataset=Unlabelled", "--model=AnimeGAN", "--nz=8", "--ngf=4", "--ndf=4", "--batch-size=256"]
SMALL += ["--max-epoch=2", "--use-gpu=false", "--vis-port=None"]
CPU = Device(torch.device("cpu"), None, torch.contiguous_format)
GREY = Preprocess(28, mean=(0.5,), std=(0.5,))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory) -> Path:
    """Fewer digits than elsewhere: a GAN's step takes long. Three steps an epoch."""
    return write_mnist(tmp_path_factory.mktemp("digits"), 30, 30)


@pytest.fixture(scope="module")
def short_run(mnist, tmp_path_factory) -> Path:
    """The run folder of one epoch."""
    flags = [*FLAGS, "--image-size=28", "--num-workers=0", f"--train-data-root={mnist}", "--max-epoch=1"]
    return train_in(tmp_path_factory.mktemp("runs"), *(f for f in flags if f != "--max-epoch=2"))


def gan(conditional=False, **options) -> Gan:
    torch.manual_seed(0)
    classes = [str(digit) for digit in range(10)] if conditional else ["image"]
    return Gan(
        models.build("MNISTGAN", len(classes), 28, channels=1, arguments={"nz": 8, "conditional": conditional}),
        classes,
        GREY,
        CPU,
        Config(**options),
        items=[],
    )


def batch(count=6) -> Batch:
    images = torch.randint(0, 256, (count, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.zeros(count, dtype=torch.int64), torch.arange(count))


# ---- nets


@pytest.mark.parametrize("name, side, channels", [("AnimeGAN", 96, 3), ("MNISTGAN", 28, 1)])
def test_shapes(name, side, channels):
    sizes = {"ngf": 4, "ndf": 4} if name == "AnimeGAN" else {}
    net = models.build(name, 1, side, channels=channels, arguments={"nz": 10} | sizes)
    images = net.generator(torch.randn(2, 10, 1, 1))
    assert images.shape == (2, channels, side, side) and images.abs().max() <= 1
    assert net(images).shape == (2,)


def test_the_sides_of_the_animegan_are_those_of_the_book():
    net, sides = models.build("AnimeGAN", 1, 96, arguments={"ngf": 2, "ndf": 2, "nz": 3}), []
    for layer in [*net.generator, *net.discriminator]:
        layer.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    net(net.generator(torch.randn(1, 3, 1, 1)))
    assert list(dict.fromkeys(sides)) == [4, 8, 16, 32, 96, 1]


# ---- the step


def test_a_step_is_that_of_two_separate_backwards():
    one, other = gan(), gan()
    torch.manual_seed(5)
    figures = one.train_step(batch())
    torch.manual_seed(5)
    net, real = other.net.train(), other._images(batch())
    fake = net.generator(torch.randn(6, 8, 1, 1))
    d_loss = bce(net(real), net(fake.detach()))["discriminator"]
    g_loss = bce(net(real), net(fake))["generator"]
    d_grads = torch.autograd.grad(d_loss, list(net.discriminator.parameters()))
    g_grads = torch.autograd.grad(g_loss, list(net.generator.parameters()))
    for part, grads in ((net.discriminator, d_grads), (net.generator, g_grads)):
        for p, grad in zip(part.parameters(), grads, strict=True):
            p.grad = grad
    for optimizer in other.optimizers.values():
        optimizer.step()
    assert float(figures["generator_loss"]) == pytest.approx(g_loss.item(), rel=1e-5)
    for p, q in zip(one.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_net_that_knows_classes_is_told_them():
    """Latents end in the one-hot class; the discriminator adds the product of the features and the class's vector."""
    one, images, labels = gan(conditional=True), torch.rand(6, 1, 28, 28), torch.arange(6)
    latents = torch.cat(list(one.latents(100, 0)))
    assert latents.shape == (100, 8 + 10, 1, 1) and (latents[:, 8:].sum(1) == 1).all()
    assert len(latents[:, 8:, 0, 0].argmax(1).unique()) == 10
    one.opt.class_ = "7"
    assert (torch.cat(list(one.latents(100, 0)))[:, 8:, 0, 0].argmax(1) == 7).all()
    features = one.net.discriminator.features(images)
    vectors = one.net.discriminator.classes.weight[labels]
    expected = one.net(images) + torch.stack([f @ v for f, v in zip(features, vectors, strict=True)])
    torch.testing.assert_close(one.net(images, labels), expected)
    learning = {id(p) for group in one.optimizers["discriminator"].param_groups for p in group["params"]}
    assert id(one.net.discriminator.classes.weight) in learning
    walk = one.interpolate()
    assert len(walk) == 32 and not np.array_equal(walk[0], walk[-1])


def test_the_penalty_is_half_the_squared_gradient_at_real_images():
    weights = torch.tensor([3.0, 4.0])
    real = torch.tensor([[1.0, 2.0], [0.5, 1.0]], requires_grad=True)
    logits = (real.square() * weights).sum(1) / 2  # the gradient is real * weights
    assert r1_penalty(logits, real).item() == pytest.approx(((9 + 64) + (2.25 + 16)) / 2 / 2)


def test_the_penalty_pulls_the_discriminators_gradient_down():
    """Every other step, and by as much as if it came with half the weight in each."""
    slopes = []
    for weight in (0.0, 100.0):
        one = gan(r1=weight, lr2=1e-3)
        for _ in range(20):
            one.train_step(batch())
        real = one._images(batch()).requires_grad_()
        slopes.append(float(r1_penalty(one.net(real), real).detach()))
    assert slopes[1] < slopes[0] / 5


def test_gradients_lie_in_memory_as_their_weights_do():
    """Else Adam's fused step refuses them on a GPU."""
    one = gan()
    losses = {
        name: sum((p.movedim(0, -1).contiguous() ** 2).sum() for p in net.parameters())
        for name, net in one.net.named_children()
    }
    one._set_gradients(losses, dict.fromkeys(losses, True))
    assert all(torch.equal(p.grad, 2 * p) and p.grad.stride() == p.stride() for p in one.net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("options, steps", [({"g_every": 3}, [1, 0, 0, 1]), ({"d_every": 2}, [1, 0, 1, 0])])
def test_each_net_learns_as_often_as_asked(options, steps):
    one = gan(**options)
    part = one.net.generator if "g_every" in options else one.net.discriminator
    other = one.net.discriminator if "g_every" in options else one.net.generator
    for steps_now in steps:
        before = [[p.detach().clone() for p in net.parameters()] for net in (part, other)]
        one.train_step(batch())
        after = [list(net.parameters()) for net in (part, other)]
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)) == (not steps_now)
        assert not all(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


def test_a_step_that_is_not_finite_changes_nothing(monkeypatch):
    one = gan(on_nan="skip", ema=0.9)
    one.train_step(batch())
    before = copy.deepcopy(one.state_dict())
    monkeypatch.setattr(engine.tasks.gan, "bce", lambda *logits: {k: v * math.nan for k, v in bce(*logits).items()})
    with pytest.raises(NonFiniteError, match="the loss"):
        one.train_step(batch())
    assert same(one.state_dict(), before)


def test_what_the_discriminator_sees_is_moved_and_gradients_pass():
    images = torch.zeros(64, 3, 16, 16)
    images[:, :, 8, 8] = 1
    images.requires_grad_()
    torch.manual_seed(0)
    seen = random_translate(images, 2)
    places = {tuple(divmod(int(image[0].argmax()), 16)) for image in seen}
    assert {y for y, _ in places} == {x for _, x in places} == {6, 7, 8, 9, 10}
    assert torch.equal(seen.sum((1, 2, 3)), torch.full((64,), 3.0))
    seen.square().sum().backward()
    assert (images.grad[:, :, 8, 8] == 2).all()


# ---- through the commands


def test_a_gan_trains_on_fewer_images_than_a_batch(command, dogcat, tmp_path):
    code, out, err = command("train", *SMALL, f"--train-data-root={dogcat}/train", f"--checkpoint-dir={tmp_path}")
    assert code == 0, err
    (run,) = tmp_path.iterdir()
    assert "Fréchet distance" in out and "main.py generate --load-path=" in out
    steps = [event for event in record(run) if event["kind"] == "step"]
    assert len(steps) == 2 and all(np.isfinite(event["generator_loss"]) for event in steps)
    assert Image.open(run / "samples" / "generated_002.png").size == (8 * 98 + 2, 8 * 98 + 2)


def test_four_images_of_any_size_are_enough_and_three_are_not(command, tmp_path):
    (images := tmp_path / "images").mkdir()
    words = [*SMALL, f"--train-data-root={images}", f"--checkpoint-dir={tmp_path / 'runs'}"]
    for number in range(4):
        code, _, err = command("train", *words)
        assert code == 2 and "expected four images or more" in err
        picture(images / f"{number}.png", size=(20 + 50 * number, 60))
    code, out, err = command("train", *words)
    assert code == 0 and "2 training and 2 validation images" in out, err


@pytest.mark.slow
def test_check_and_bench_take_a_gan(command, dogcat, monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    words = [f for f in SMALL if "epoch" not in f and "port" not in f] + [f"--train-data-root={dogcat}/train"]
    code, out, err = command("check", *words)
    assert code == 0 and "generator loss" in out, err
    code, out, err = command("bench", *words)
    assert code == 0 and "this program / tutorial loop" in out, err


@pytest.mark.parametrize("flags", [("--ema=0.5", "--conditional", "--r1=1"), ("--g-every=2", "--d-shift=3")])
@pytest.mark.slow
def test_a_gan_resumes_bit_for_bit(flags, train, monkeypatch):
    resumes_bit_for_bit(Gan, 5, train, flags, monkeypatch)


@pytest.mark.slow
def test_val_of_a_gan_and_what_the_other_commands_say(short_run, command, mnist, tmp_path):
    run = short_run
    code, out, err = command("val", f"--load-path={run}")
    assert code == 0 and "distance of noise" in out, err
    assert {"distance", "variety", "distance_of_real"} <= json.loads((run / "val_best.json").read_text()).keys()
    code, _, err = command("test", f"--load-path={run}", f"--test-data-root={mnist}")
    assert code == 2 and err.count("\n") == 1
    (tmp_path / "a.png").write_bytes((run / "samples" / "generated_001.png").read_bytes())
    code, _, err = command("test", f"--load-path={run}", f"--test-data-root={tmp_path / 'a.png'}")
    assert (code, err) == (2, "main.py: test cannot use MNISTGAN: nets of its task Gan are for generate\n")


def test_a_classifier_makes_no_images(command, tiny_run, tmp_path):
    code, _, err = command("generate", f"--load-path={tiny_run}", f"--gen-img={tmp_path / 'a.png'}")
    assert (code, err) == (2, "main.py: generate cannot use MNISTNet: nets of its task Classify are for test\n")


@pytest.mark.slow
def test_generate(short_run, command, tmp_path):

    def made(name, *flags):
        where = tmp_path / name
        code, out, err = command(
            "generate", f"--load-path={short_run}", "--gen-num=5", "--gen-search-num=90", f"--gen-img={where}", *flags
        )
        assert code == 0, err
        return where.read_bytes()

    first = made("a.png")
    assert first == made("b.png") != made("c.png", "--seed=1")
    assert first != made("d.png", "--gen-std=0.5") and first != made("e.png", "--gen-mean=1")
    made("f.png", f"--gen-folder={tmp_path / 'single'}", f"--gen-walk={tmp_path / 'walk.gif'}")
    assert sorted(path.name for path in (tmp_path / "single").iterdir()) == [f"{i:04d}.png" for i in range(5)]
    assert Image.open(tmp_path / "walk.gif").n_frames > 30
    code, _, err = command("generate", f"--load-path={short_run}", "--gen-num=5", "--gen-search-num=4")
    assert code == 2 and "search more, or keep less" in err
    for flag, endings in (("--gen-img=a.jpg", ".png"), ("--gen-walk=a.mp4", ".gif or .png")):
        code, _, err = command("generate", f"--load-path={short_run}", flag)
        assert (code, err) == (2, f"main.py: {flag}: give a name that ends in {endings}\n")


@pytest.mark.slow
def test_the_best_of_many_are_kept_and_few_are_in_memory():
    one, seen = gan(gen_num=3, gen_search_num=200), []
    made = torch.cat(list(one.images(200, 0)))
    liked = torch.cat([one.discriminator_scores(one.sample(z), z) for z in one.latents(200, 0)])
    one.net.generator.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    best = one.top_k(3, 200)
    assert np.array_equal(best, made[liked.argsort(descending=True, stable=True)[:3]].numpy())
    assert sum(seen) == 200 and max(seen) == AT_ONCE


def test_images_without_classes_cannot_tell_any(command, dogcat):
    code, _, err = command("train", "--model=AnimeGAN", "--conditional", f"--train-data-root={dogcat}")
    assert (code, err) == (
        2,
        "main.py: --conditional needs images of two classes or more, and these are of one: leave it out\n",
    )


@pytest.mark.slow
def test_images_of_one_class(short_run, train, command, tmp_path):
    run = train("--conditional", "--max-epoch=1")[1]
    words = ["generate", f"--load-path={run}", "--gen-num=4", "--gen-search-num=8"]
    for name, flags in (("all", []), ("three", ["--class=3"]), ("four", ["--class=4"])):
        assert command(*words, *flags, f"--gen-img={tmp_path / name}.png")[0] == 0
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in ("all", "three", "four")}) == 3
    code, _, err = command(*words, "--class=seven")
    assert code == 2 and err.startswith("main.py: unknown class 'seven'") and err.count("\n") == 1
    code, _, err = command("generate", f"--load-path={short_run}", "--class=3")
    assert (code, err) == (2, "main.py: --class=3: MNISTGAN has learned without classes; train it with --conditional\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", presets_of("Gan"))
def test_every_preset_of_a_gan_runs(name, dogcat, mnist, tmp_path, command):
    root = mnist if presets.read(name)["dataset"][0] == "MNIST" else dogcat / "train"
    words = [f"--train-data-root={root}", "--max-epoch=1", "--vis-port=None", f"--checkpoint-dir={tmp_path / 'runs'}"]
    code, out, err = command("train", f"--config={name}", *words)
    assert code == 0 and "main.py generate --load-path=" in out, err
    assert command("val", "--load-path=last", words[-1])[0] == 0
    picture = tmp_path / "picture.png"
    assert command("generate", "--load-path=last", words[-1], "--gen-search-num=64", f"--gen-img={picture}")[0] == 0
    assert picture.exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model=MNISTGAN", "--lr=0.1"], "--lr has no effect on MNISTGAN: it is an option of optimization"),
        (["--model=MNISTGAN", "--lr=1e-3"], "--lr has no effect on MNISTGAN: it is an option of optimization"),
        (["--model=LeNet", "--lr1=0.1"], "--lr1 has no effect on LeNet: it is an option of gan"),
        (["--model=MNISTGAN", "--ngf=8"], "--ngf has no effect on MNISTGAN, which takes nz"),
        (["--model=resnet18", "--nz=8"], "--nz has no effect on resnet18: it is an option of gan"),
        (["--model=AnimeGAN"], "AnimeGAN makes images of 96 pixels a side, not 28"),
        (["--model=AnimeGAN", "--image-size=96"], "AnimeGAN makes images of 3 channels, not 1"),
        (["--model=MNISTGAN", "--image-size=32"], "MNISTGAN cannot take images of 32x32 pixels"),
        (["--model=MNISTGAN", "--judge={weights}"], "--judge={weights} is not the run of a classifier"),
        (["--model=MNISTGAN", "--judge={weights}/none"], "no checkpoint {weights}/none"),
    ],
)
def test_what_does_not_fit_a_gan_is_refused(words, message, command, mnist, tmp_path):
    weights = models.build("LeNet", 3).save(tmp_path / "weights.pth")
    words = [word.format(weights=weights) for word in words]
    code, _, err = command(
        "train", "--dataset=MNIST", f"--train-data-root={mnist}", *words, f"--checkpoint-dir={tmp_path / 'runs'}"
    )
    assert code == 2 and message.format(weights=weights) in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_options_of_another_task_are_refused_before_torch_is_imported(short_run, command, tmp_path):
    words = [sys.executable, "-X", "importtime", "main.py", "train", "--config=mnist", "--model=MNISTGAN"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "torch\n" not in done.stderr
    assert "mnist.yaml, line " in done.stderr and "has no effect on MNISTGAN: it is an option of " in done.stderr
    code, _, err = command("val", f"--load-path={short_run}", "--flip-test")
    assert code == 2 and "--flip-test has no effect on MNISTGAN" in err
    code, _, err = command("train", f"--resume={short_run}", "--max-epoch=2", "--nz=9")
    assert code == 2 and "was trained with nz None, not 9" in err
    code, _, err = command("train", f"--config={short_run / 'config.yaml'}", f"--checkpoint-dir={tmp_path / 'again'}")
    assert code == 0, err


# ---- the judge


def digits(count, generator):
    """Bright bars at random places in noise."""
    images = torch.randint(0, 80, (count, 28, 28, 1), dtype=torch.uint8, generator=generator)
    for image, place in zip(images, torch.randint(0, 24, (count,), generator=generator).tolist(), strict=True):
        image[place : place + 4] = 250
    return images


@pytest.mark.slow
def test_the_judge_tells_real_noise_and_a_collapsed_generator_apart():
    judge, rng = GanEvaluator(None, GREY, CPU), torch.Generator().manual_seed(0)
    real, others = (judge.extract_features(digits(300, rng).split(64)) for _ in range(2))
    noise = judge.extract_features([torch.randint(0, 256, (300, 28, 28, 1), dtype=torch.uint8, generator=rng)])
    one = digits(1, rng).repeat(300, 1, 1, 1)
    collapsed = judge.extract_features([one + torch.randint(0, 3, one.shape, dtype=torch.uint8, generator=rng)])
    good, bad, flat = (judge.compare(real, seen) for seen in (others, noise, collapsed))
    assert good["distance"] * 5 < min(bad["distance"], flat["distance"])
    assert good["variety"] == pytest.approx(1, abs=0.1) and flat["variety"] < 0.1
    diagnose = lambda metrics: GanMessages(SimpleNamespace(opt=None)).diagnose({}, metrics, 1)  # noqa: E731
    assert diagnose(good) is None and "differ 0.0" in diagnose(flat)
    assert "few of the classifier's classes: spread 0.30" in diagnose(good | {"spread": 0.3, "real_spread": 0.99})


def test_the_distance_of_two_normal_clouds_is_known():
    rng = torch.Generator().manual_seed(0)
    some, others = torch.randn(20000, 4, generator=rng), torch.randn(20000, 4, generator=rng) * 2 + 1
    assert frechet(some, others) == pytest.approx(4 * 1 + 4 * (1 - 2) ** 2, rel=0.05)


def test_difference_by_hand():
    images = torch.tensor([0, 10, 20], dtype=torch.uint8)[:, None, None, None].expand(3, 2, 2, 1)
    assert difference(images) == pytest.approx(((100 + 400 + 100) / 3) ** 0.5)


@pytest.mark.slow
def test_val_tells_of_a_collapsed_generator(short_run, command, tmp_path):
    content = checkpoints.read(short_run / "last.pth")
    content["net"]["generator.1.weight"].zero_()  # what the noise is multiplied by
    checkpoints.write(content, tmp_path / "collapsed.pth")
    code, out, _ = command("val", f"--load-path={tmp_path / 'collapsed.pth'}")
    assert code == 0 and "the generator has collapsed: two of its images differ 0.00 times" in out


@pytest.mark.slow
def test_a_classifier_as_the_judge(short_run, train, command, monkeypatch, tmp_path):
    monkeypatch.setattr(engine.tasks.gan, "EVALUATED", 500)
    root = write_mnist(tmp_path / "mnist", 240, 60)
    judge = train("--model=MNISTNet", f"--train-data-root={root}", "--batch-size=16", "--max-epoch=6")[1]
    code, out, err = command("val", f"--load-path={short_run}", f"--judge={judge}")
    assert code == 0, err
    figures = json.loads((short_run / "val_best.json").read_text())
    assert figures["real_confidence"] > 0.5 and figures["real_spread"] > 0.95
    assert 0 <= figures["spread"] <= 1 and "real spread" in out


@pytest.mark.slow
def test_generate_needs_no_judge(train, command, tmp_path, monkeypatch):
    monkeypatch.setattr(engine.tasks.gan, "EVALUATED", 500)
    judge = train("--model=MNISTNet", "--max-epoch=1")[1]
    run = train("--max-epoch=1", f"--judge={judge}")[1]
    shutil.rmtree(judge)
    code, out, err = command("generate", f"--load-path={run}", f"--gen-img={tmp_path / 'a.png'}")
    assert code == 0 and (tmp_path / "a.png").exists(), err
    code, _, err = command("val", f"--load-path={run}")
    assert code == 2 and f"no checkpoint {judge}" in err
