"""What packages hold besides plain tensors: images, labels, states, functions, flexible shapes, compression."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import parity.mil
from parity.mil import InputError
from tests.mil import zoo


@pytest.fixture(scope="module")
def ct():
    with zoo.quiet():
        import coremltools

        return coremltools


@pytest.fixture(scope="module")
def cnn():
    return zoo.model("plain_cnn")


def reference(network, x):
    with torch.no_grad():
        return copy.deepcopy(network).double()(x.double()).numpy()


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_image_input_applies_scale_bias_and_colour_order(ct, cnn, colour, tmp_path):
    image = ct.ImageType(
        name="x", shape=zoo.IMAGE, scale=1 / 127.5, bias=[-1.0, -0.9, -0.8], color_layout=ct.colorlayout[colour]
    )
    program = parity.mil.load(zoo.convert(cnn, torch.rand(zoo.IMAGE), tmp_path / "m.mlpackage", inputs=[image]))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    order = [0, 1, 2] if colour == "RGB" else [2, 1, 0]
    x = torch.from_numpy(pixels[..., order].transpose(2, 0, 1)[None].copy()).double()
    want = reference(cnn, x / 127.5 + torch.tensor([-1.0, -0.9, -0.8])[:, None, None])
    assert program.inputs["x"].colour == colour
    got = next(iter(program.run({"x": pixels}).values()))
    assert zoo.decibels(got, want) >= 45
    from PIL import Image

    again = next(iter(program.run({"x": Image.fromarray(pixels)}).values()))
    np.testing.assert_array_equal(again, got)
    with pytest.raises(InputError, match="convert the L picture first"):
        program.run({"x": Image.fromarray(pixels[..., 0])})
    with pytest.raises(InputError, match=r"needs 8-bit pixels"):
        program.run({"x": pixels.astype(np.float32)})
    with pytest.raises(InputError, match=r"shape \[1, 3, 16, 32\]"):
        program.run({"x": pixels[:16]})


def test_classifier_gives_label_and_probabilities(ct, cnn, tmp_path):
    labels = [f"class_{i}" for i in range(10)]
    network = nn.Sequential(cnn, nn.Softmax(-1))
    x = torch.rand(zoo.IMAGE)
    path = zoo.convert(network, x, tmp_path / "m.mlpackage", classifier_config=ct.ClassifierConfig(labels))
    outputs = parity.mil.load(path).run({"x": x.numpy()})
    want = reference(network, x)[0]
    assert outputs["classLabel"] == labels[int(want.argmax())]
    probabilities = next(v for v in outputs.values() if isinstance(v, dict))
    assert list(probabilities) == labels
    np.testing.assert_allclose(list(probabilities.values()), want, atol=1e-3)


def test_state_is_kept_between_calls_and_replayed_from_a_copy(ct, tmp_path):
    network = zoo.StatefulAverage().eval()
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    states = [ct.StateType(wrapped_type=ct.TensorType(shape=(1, 4), dtype=np.float16), name="total")]
    path = zoo.convert(
        copy.deepcopy(network), x, tmp_path / "m.mlpackage", states=states,
        minimum_deployment_target=ct.target.iOS18, inputs=[ct.TensorType("x", shape=(1, 4),
        dtype=np.float16)], outputs=[ct.TensorType("y", dtype=np.float16)],
    )  # fmt: skip
    program = parity.mil.load(path)
    assert list(program.states) == ["total"]
    assert "x" in program.inputs
    assert "total" not in program.inputs
    state = program.make_state()
    for step in range(1, 4):
        before = state.copy()
        got = program.run({"x": x.numpy()}, state=state)["y"]
        with torch.no_grad():
            want = network.fc(x * step).numpy()
        np.testing.assert_allclose(got, want, atol=2e-2)
        np.testing.assert_array_equal(state.read("total"), x.numpy() * step)
        np.testing.assert_array_equal(program.run({"x": x.numpy()}, state=before)["y"], got)
    fresh = program.run({"x": x.numpy()})["y"]
    np.testing.assert_allclose(fresh, network.fc(x).detach().numpy(), atol=2e-2)
    state.write("total", np.zeros((1, 4)))
    np.testing.assert_array_equal(program.run({"x": x.numpy()}, state=state)["y"], fresh)
    with pytest.raises(InputError, match="shape"):
        state.write("total", np.zeros(4))
    with pytest.raises(InputError, match="no state 'totl'"):
        state.read("totl")


def test_functions_of_one_package(ct, tmp_path):
    paths = {}
    for name in ("encode", "decode"):
        torch.manual_seed(len(paths))
        network = nn.Linear(4, 3 + len(paths)).eval()
        path = zoo.convert(network, torch.rand(1, 4), tmp_path / f"{name}.mlpackage")
        paths[name] = (path, network)
    description = ct.utils.MultiFunctionDescriptor()
    for name, (path, _) in paths.items():
        description.add_function(str(path), src_function_name="main", target_function_name=name)
    description.default_function_name = "encode"
    with zoo.quiet():
        ct.utils.save_multifunction(description, str(tmp_path / "both.mlpackage"))
    x = torch.rand(1, 4)
    for name, (_, network) in paths.items():
        program = parity.mil.load(tmp_path / "both.mlpackage", function=name)
        got = next(iter(program.run({"x": x.numpy()}).values()))
        np.testing.assert_allclose(got, reference(network, x), atol=5e-3)
    assert parity.mil.load(tmp_path / "both.mlpackage").function == "encode"
    with pytest.raises(InputError, match="no function 'main'; it has decode, encode"):
        parity.mil.load(tmp_path / "both.mlpackage", function="main")


def test_enumerated_and_ranged_shapes_are_enforced(ct, cnn, tmp_path):
    enumerated = ct.EnumeratedShapes([(1, 3, 32, 32), (1, 3, 48, 32)], default=zoo.IMAGE)
    ranged = ct.Shape((1, 3, ct.RangeDim(16, 64, default=32), ct.RangeDim(16, 64, default=32)))
    for shape, allowed, refused in (
        (enumerated, [(1, 3, 32, 32), (1, 3, 48, 32)], [(1, 3, 40, 32), (2, 3, 32, 32), (3, 32, 32)]),
        (ranged, [(1, 3, 16, 64), (1, 3, 33, 17)], [(1, 3, 15, 32), (1, 3, 32, 65), (1, 4, 32, 32)]),
    ):
        inputs = [ct.TensorType(name="x", shape=shape, dtype=np.float32)]
        path = zoo.convert(cnn, torch.rand(zoo.IMAGE), tmp_path / "m.mlpackage", inputs=inputs)
        program = parity.mil.load(path)
        for size in allowed:
            x = torch.rand(size)
            got = next(iter(program.run({"x": x.numpy()}).values()))
            assert zoo.decibels(got, reference(cnn, x)) >= 50
        for size in refused:
            with pytest.raises(InputError, match="allowed"):
                program.run({"x": np.zeros(size, np.float32)})
    with pytest.raises(InputError, match=r"Size \(65\) of dimension \(3\) is not in allowed range \(16\.\.64\)"):
        program.run({"x": np.zeros((1, 3, 32, 65), np.float32)})  # Core ML's own words
    with pytest.raises(InputError, match="needs 4 dimensions"):
        program.run({"x": np.zeros((3, 32, 32), np.float32)})


def test_inputs_that_are_not_the_interface_are_refused(cnn, tmp_path):
    program = parity.mil.load(zoo.convert(cnn, torch.rand(zoo.IMAGE), tmp_path / "m.mlpackage"))
    x = np.zeros(zoo.IMAGE, np.float32)
    for inputs, message in (
        ({}, "'x' is missing"),
        ({"x": x, "y": x}, "no input 'y'"),
        ({"x": x[0]}, r"shape \[3, 32, 32\]"),
        ({"x": np.array(["a"])}, "needs numbers"),
    ):
        with pytest.raises(InputError, match=message):
            program.run(inputs)
    with pytest.raises(InputError, match="mode 'fp8'"):
        program.run({"x": x}, mode="fp8")


def _compressors(ct):
    coreml = ct.optimize.coreml
    whole = {"weight_threshold": 0}

    def config(op):
        return coreml.OptimizationConfig(global_config=op)

    return {
        "int8": lambda m: coreml.linear_quantize_weights(m, config(coreml.OpLinearQuantizerConfig(**whole))),
        "int4_blocks": lambda m: coreml.linear_quantize_weights(
            m, config(coreml.OpLinearQuantizerConfig(dtype="int4", granularity="per_block", block_size=8, **whole))
        ),
        "palette_4": lambda m: coreml.palettize_weights(
            m, config(coreml.OpPalettizerConfig(mode="uniform", nbits=4, **whole))
        ),
        "palette_2_groups": lambda m: coreml.palettize_weights(
            m, config(coreml.OpPalettizerConfig(mode="uniform", nbits=2, granularity="per_grouped_channel",
            group_size=8,
                                                **whole))
        ),
        "sparse": lambda m: coreml.prune_weights(
            m, config(coreml.OpMagnitudePrunerConfig(target_sparsity=0.5, **whole))
        ),
        "sparse_palette": lambda m: coreml.palettize_weights(
            coreml.prune_weights(m, config(coreml.OpMagnitudePrunerConfig(target_sparsity=0.5, **whole))),
            config(coreml.OpPalettizerConfig(mode="uniform", nbits=4, **whole)),
            joint_compression=True,
        ),
        "sparse_int8": lambda m: coreml.linear_quantize_weights(
            coreml.prune_weights(m, config(coreml.OpMagnitudePrunerConfig(target_sparsity=0.5, **whole))),
            config(coreml.OpLinearQuantizerConfig(**whole)),
            joint_compression=True,
        ),
    }  # fmt: skip


COMPRESSED = ["int8", "int4_blocks", "palette_4", "palette_2_groups", "sparse", "sparse_palette", "sparse_int8"]


@pytest.mark.parametrize(
    ("kind", "target"),
    [(kind, "iOS18") for kind in COMPRESSED] + [(kind, "iOS16") for kind in ("int8", "palette_4", "sparse")],
)
def test_compressed_weights(ct, kind, target, tmp_path):
    """The compressed package equals the package with coremltools' own decompressed weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)).eval()
    x = torch.rand(1, 16)
    path = zoo.convert(network, x, tmp_path / "m.mlpackage", "fp32", minimum_deployment_target=ct.target[target])
    with zoo.quiet():
        small = _compressors(ct)[kind](ct.models.MLModel(str(path), skip_model_load=True))
        small.save(str(tmp_path / "small.mlpackage"))
        dense = ct.optimize.coreml.decompress_weights(small)
        dense.save(str(tmp_path / "dense.mlpackage"))
    program = parity.mil.load(tmp_path / "small.mlpackage")
    assert any(name.startswith("constexpr_") for name in program.operators)
    got = next(iter(program.run({"x": x.numpy()}).values()))
    want = next(iter(parity.mil.load(tmp_path / "dense.mlpackage").run({"x": x.numpy()}).values()))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert zoo.decibels(got, reference(network, x)) < 90  # compression did change the weights


def test_trace_shows_every_value_and_run_frees_them(cnn, tmp_path):
    program = parity.mil.load(zoo.convert(cnn, torch.rand(zoo.IMAGE), tmp_path / "m.mlpackage"))
    x = torch.rand(zoo.IMAGE)
    seen = list(program.trace({"x": x.numpy()}))
    assert [kind for kind, _, _ in seen][-1] == "linear"
    first = next(value for kind, _, value in seen if kind == "conv")
    with torch.no_grad():
        want = cnn[0][1](cnn[0][0](x))
    assert zoo.decibels(first, want.numpy()) >= 55
    assert sum(program.operators.values()) - program.operators["const"] == len(seen)
    for step in program._compiled["program"].steps[1:]:
        assert step.dies, f"{step.operator} frees nothing"


def test_events_name_operator_module_and_headroom(tmp_path):
    network = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), second=nn.Linear(4, 4))).eval()
    network.first.weight.data.fill_(0.5)  # drawn ones may cancel, and then nothing overflows
    network.second.weight.data.fill_(300.0)
    program = parity.mil.load(zoo.convert(network, torch.rand(1, 4), tmp_path / "m.mlpackage"))
    big = np.full((1, 4), 200.0, np.float32)
    program.run({"x": big})
    overflow = next(e for e in program.events if e.kind == "fp16-overflow")
    assert overflow.operator == "linear"
    assert overflow.module == "second"
    assert overflow.detail["headroom"] < 1
    assert "fp16-overflow in linear" in str(overflow)
    program.run({"x": big / 100})
    assert not program.events
    assert program.peak.headroom > 1
