"""Recipes as values and as text: exact round trips and errors that say where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.errors import RecipeError, SettingError
from gossamer.methods.distill import Logits
from gossamer.methods.factorize import Svd
from gossamer.methods.prune import Magnitude
from gossamer.methods.regularize import L1
from gossamer.methods.share import KMeans
from gossamer.recipe import Cubic, Recipe, Step, find, methods, names
from gossamer.train import Training

TEXT = """\
name = "two"

[[step]]
method = "prune.magnitude"
sparsity = 0.9
exclude = ["fc3.*"]

[step.schedule]
end = 0.75
every = 5

[step.train]
epochs = 3
lr = 1e-3
augment = ["flip"]

[[step]]
train = { epochs = 1 }
"""


def test_text_becomes_the_value_it_says():
    assert Recipe.from_toml(TEXT) == Recipe(
        name="two",
        steps=(
            Step(
                method=Magnitude(sparsity=0.9, exclude=("fc3.*",)),
                schedule=Cubic(end=0.75, every=5),
                train=Training(epochs=3, lr=1e-3, augment=("flip",)),
            ),
            Step(train=Training(epochs=1)),
        ),
    )


def test_text_is_the_same_after_a_round_trip():
    text = Recipe.from_toml(TEXT).to_toml()
    assert Recipe.from_toml(text).to_toml() == text


STEPS = st.one_of(
    st.builds(
        lambda sparsity, end, epochs: Step(
            method=Magnitude(sparsity=sparsity), schedule=Cubic(end=end), train=Training(epochs=epochs)
        ),
        st.floats(0, 1),
        st.floats(0.01, 1),
        st.integers(1, 99),
    ),
    st.builds(lambda bits, trained: Step(method=KMeans(bits=bits, trained=trained)), st.integers(1, 16), st.booleans()),
    st.builds(lambda amount: Step(method=L1(amount=amount)), st.floats(0, 1e9)),
    st.builds(lambda lr: Step(train=Training(lr=lr)), st.floats(1e-300, 1e300)),
    st.builds(lambda name: Step(method=Logits(include=(name,))), st.text(max_size=8)),
)


@given(st.text(max_size=20), st.integers(0, 2**31 - 1), st.lists(STEPS, min_size=1, max_size=4))
def test_any_recipe_survives_its_text(name: str, seed: int, steps: list[Step]):
    recipe = Recipe(name=name, about=name[::-1], seed=seed, steps=tuple(steps))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("tag", sorted(methods()))
def test_every_method_survives_its_text(tag: str):
    kind = methods()[tag]
    step = Step(method=kind(**kind.example), train=Training() if kind.in_training else None)
    recipe = Recipe(name="one", steps=(step,))
    assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_files(tmp_path):
    recipe = Recipe.from_toml(TEXT)
    recipe.save(tmp_path / "two.toml")
    assert Recipe.load(tmp_path / "two.toml") == recipe
    assert find(str(tmp_path / "two.toml")) == find(tmp_path / "two.toml") == find(recipe) == recipe


@pytest.mark.parametrize("name", names())
def test_built_in_recipes_are_valid_and_named_after_their_files(name: str):
    recipe = find(name)
    assert recipe.name == name
    assert recipe.about
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 1", ["recipe", "name", "str", "1"]),
        ("name = 'x'", ["'x'", "no steps", "[[step]]"]),
        ("name = 'x'\nstep = 3", ["list of tables"]),
        ("name = 'x'\nsteps = 3", ["unknown field 'steps'"]),
        ("name = 'x'\nseed = -1\n[[step]]\nmethod='share.kmeans'", ["seed", "-1"]),
        ("[[step]]\nmethod='share.kmeans'", ["recipe", "name"]),
        ("name = ", ["not TOML"]),
        ("name='x'\n[[step]]", ["step 1", "a method, a training"]),
        ("name='x'\n[[step]]\nbits = 3", ["step 1", "'bits'", "no method", "hint: add method"]),
        (
            "name='x'\n[[step]]\nmethod = 'magic.wand'",
            ["step 1", "'magic.wand'", "known methods", "prune.magnitude, "],
        ),
        (
            "name='x'\n[[step]]\nmethod='share.kmeans'\n[[step]]\nmethod='prune.magnitude'\nsparsty = 0.5",
            ["step 2 (prune.magnitude)", "unknown field 'sparsty'", "did you mean 'sparsity'?"],
        ),
        (
            "name='x'\n[[step]]\nmethod='prune.magnitude'\nsparsity = 1.5",
            ["step 1 (prune.magnitude)", "field sparsity", "1.5", "<= 1.0", "hint: sparsity is a number from 0 to 1"],
        ),
        (
            "name='x'\n[[step]]\nmethod='prune.magnitude'",
            ["step 1 (prune.magnitude)", "sparsity is missing", "a number from 0 to 1", "its fields: sparsity, scope"],
        ),
        (
            "name='x'\n[[step]]\nmethod='prune.magnitude'\nsparsity='all'",
            ["step 1 (prune.magnitude)", "field sparsity", "float", "'all'"],
        ),
        (
            "name='x'\n[[step]]\n[step.train]\nepochs = 0",
            ["step 1, train", "field epochs", "0", ">= 1"],
        ),
        (
            "name='x'\n[[step]]\nmethod='share.kmeans'\n[step.trian]\nepochs = 1",
            ["step 1 (share.kmeans)", "unknown table 'trian'", "hint: did you mean [step.train]?"],
        ),
        (
            "name='x'\n[[step]]\nmethod='share.kmeans'\n[step.when]\nend = 1",
            ["unknown table 'when'", "hint: tables of a step: train, schedule, seek, fallback"],
        ),
        ("name='x'\n[[step]]\ntrain = 3", ["step 1, train", "table", "3"]),
        (
            "name='x'\n[[step]]\nmethod='share.soft'\n[step.train]\nepochs=1\noptimizer='sgd'",
            ["step 1", "share.soft, optimizer", "wanted adamw, got sgd"],
        ),
        (
            "name='x'\n[[step]]\n[step.train]\nepochs=1\n[step.schedule]\nbegin=0.5\nend=0.2",
            ["step 1, schedule", "begin", "0.2"],
        ),
        (
            "name='x'\n[[step]]\nmethod='prune.magnitude'\nsparsity=0.5\n[step.schedule]\nend=0.2",
            ["step 1", "prune.magnitude", "no train table"],
        ),
        (
            "name='x'\n[[step]]\nmethod='prune.magnitude'\nsparsity=0.3\n[step.schedule]\ninitial=0.8\n[step.train]\nepochs=1",
            ["step 1", "initial", "0.8", "sparsity (0.3)"],
        ),
        (
            "name='x'\n[[step]]\nmethod='quantize.post_training'\n[step.schedule]\nend=0.2\n[step.train]\nepochs=1",
            ["step 1", "quantize.post_training", "strength", "prune.magnitude"],
        ),
    ],
)
def test_errors_name_the_step_and_the_field(text: str, words: list[str]):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml(text)
    for word in words:
        assert word in str(caught.value)


def test_errors_of_files_name_the_file(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.toml: cannot be read"):
        find(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = 'x'")
    with pytest.raises(RecipeError, match=r"bad.toml: recipe 'x' has no steps"):
        find(str(tmp_path / "bad.toml"))


def test_an_unknown_built_in_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'deep-compression'"):
        find("deep-compresion")


def test_a_seed_is_added_to_every_seed():
    recipe = Recipe(
        name="x",
        steps=(Step(train=Training(seed=3)), Step(method=KMeans()), Step(method=Svd(criterion="rank", amount=2))),
    )
    seeded = recipe.seeded(7)
    assert seeded.steps[0].train == Training(seed=10)
    assert seeded.steps[1].method == KMeans(seed=7)
    assert seeded.steps[2] == recipe.steps[2]
    assert seeded.seed == 7


def test_a_wrong_choice_is_told_with_all_of_them():
    step = {"method": "prune.magnitude", "sparsity": 0.5, "scope": "site"}
    with pytest.raises(RecipeError, match=r"field scope: wanted one of .*layer.*, got 'site'"):
        Recipe.from_plain({"name": "a", "step": [step]})
    with pytest.raises(SettingError, match=r"scope: wanted one of .*layer.*, got 'site'"):
        Magnitude(sparsity=0.5, scope="site")


def test_steps_is_told_to_be_step():
    with pytest.raises(RecipeError, match=r"\[\[step\]\] table"):
        Recipe.from_plain({"name": "a", "steps": []})


def test_a_file_without_a_name_is_called_as_it_is(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[[step]]\nmethod = "prune.magnitude"\nsparsity = 0.5\n')
    assert Recipe.load(path).name == "mine"
    path.write_text('[[step]]\nmethod = "prune.magnitud"\n')
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    assert caught.value.hint == "did you mean 'prune.magnitude'?"
    path.write_text("[[step]\n")
    with pytest.raises(RecipeError, match=r"mine\.toml: not TOML"):
        Recipe.load(path)
