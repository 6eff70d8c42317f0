"""The clients that people have, as they are, against a running server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError
from openai import NotFoundError, OpenAI, UnprocessableEntityError
from transformers import AutoModel, AutoTokenizer

from adapterkit.adapter.adapter import Adapter
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.inference.predictor import Predictor
from adapterkit.serving.routes import tokens as token_routes
from adapterkit.serving.routes import vectors as vector_routes
from helpers.adapters import MakeAdapter
from helpers.server import serving
from helpers.task_adapters import random_task_adapter

KINDS = ("multi_label", "tagging", "question_answering", "embedding")
TEXT = "the card of my account is lost"


@pytest.fixture(scope="module")
def adapters(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Adapter]:
    """`acme/intent` classifies; the others are named after their task."""
    folder = tmp_path_factory.mktemp("rows")
    intent = make_adapter(tiny, name="acme/intent", labels=("bill", "card", "loan"))
    others = [
        replace(random_task_adapter(tiny, kind, folder), name=f"acme/{kind}") for kind in KINDS
    ]
    return {adapter.name: adapter for adapter in (intent, *others)}


@pytest.fixture(scope="module")
def url(
    tiny: Backbone,
    tiny_folder: Path,
    adapters: dict[str, Adapter],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    store = Store(tmp_path_factory.mktemp("shelf"))
    for adapter in adapters.values():
        store.publish(adapter, tiny.geometry)
    with serving(store.root, tiny_folder) as url:
        yield url


@pytest.fixture(scope="module")
def predictor(tiny: Backbone, adapters: dict[str, Adapter]) -> Predictor:
    return Predictor(tiny, adapters.values())


@pytest.fixture
def hub(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a client of huggingface_hub for a path of the server. The tests set its offline mode,
    in which it sends nothing at all."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return lambda path: InferenceClient(model=f"{url}{path}", token="unused")


@pytest.fixture
def openai(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


# huggingface_hub


@pytest.mark.parametrize(
    "path", ["/adapters/acme/intent/predict", "/predict?adapter_id=acme/intent"]
)
def test_text_classification(hub: Any, predictor: Predictor, path: str) -> None:
    (expected,) = predictor.predict("acme/intent", [TEXT])
    labels = hub(path).text_classification(TEXT)
    assert [one.label for one in labels] == list(expected["scores"])
    assert [one.score for one in labels] == pytest.approx([*expected["scores"].values()], abs=1e-5)
    best = hub(path).text_classification(TEXT, top_k=1, function_to_apply="softmax")
    assert [one.label for one in best] == [expected["label"]]


def test_text_classification_with_another_function_is_refused(hub: Any) -> None:
    for name, function in (("intent", "sigmoid"), ("multi_label", "softmax"), ("intent", "none")):
        with pytest.raises(HfHubHTTPError, match="422") as caught:
            hub(f"/adapters/acme/{name}/predict").text_classification(
                TEXT, function_to_apply=function
            )
        assert "function_to_apply" in caught.value.response.json()["error"]
    both = hub("/adapters/acme/multi_label/predict")
    assert both.text_classification(TEXT, function_to_apply="sigmoid")


def test_feature_extraction(hub: Any, predictor: Predictor) -> None:
    (expected,) = predictor.predict("acme/embedding", [TEXT])
    client = hub("/adapters/acme/embedding/embed")
    accepted: list[Any] = [
        {},
        {"normalize": True, "truncate": True, "truncation_direction": "right"},
    ]
    for options in accepted:
        vectors = client.feature_extraction(TEXT, **options)
        assert vectors[0] == pytest.approx(np.array(expected["vector"]), abs=1e-5)
    many = client.feature_extraction([TEXT, "rain"])
    assert many.shape == (2, len(expected["vector"]))
    raw = hub("/embed").feature_extraction(TEXT, normalize=False)
    assert np.linalg.norm(raw) != pytest.approx(1.0)
    refused: list[Any] = [{"prompt_name": "query"}, {"truncation_direction": "left"}]
    for options in refused:
        with pytest.raises(HfHubHTTPError, match="422"):
            client.feature_extraction(TEXT, **options)


def test_token_classification(hub: Any, predictor: Predictor) -> None:
    (expected,) = predictor.predict("acme/tagging", [TEXT])
    client = hub("/adapters/acme/tagging/predict")
    found = client.token_classification(TEXT, aggregation_strategy="simple")
    assert [one.entity_group for one in found] == [
        one["entity_group"] for one in expected["entities"]
    ]
    groups = [one.entity_group for one in found]
    assert groups
    rest = client.token_classification(TEXT, ignore_labels=groups[:1])
    assert [one.entity_group for one in rest] == [name for name in groups if name != groups[0]]
    with pytest.raises(HfHubHTTPError, match="422"):
        client.token_classification(TEXT, aggregation_strategy="none")


def test_question_answering(hub: Any, predictor: Predictor) -> None:
    row = {"question": "what is lost", "context": TEXT}
    (expected,) = predictor.predict("acme/question_answering", [row])
    client = hub("/adapters/acme/question_answering/predict")
    found = client.question_answering(**row, top_k=1)
    assert (found.answer, found.start, found.end) == tuple(
        expected[key] for key in ("answer", "start", "end")
    )
    with pytest.raises(HfHubHTTPError, match="422"):
        client.question_answering(**row, top_k=3)


def test_sentence_similarity(hub: Any) -> None:
    for path in ("/similarity", "/adapters/acme/embedding/similarity"):
        same, other = hub(path).sentence_similarity(TEXT, other_sentences=[TEXT, "rain"])
        assert same == pytest.approx(1.0)
        assert other < 1.0


def test_zero_shot_classification_is_refused_with_the_reason(hub: Any) -> None:
    with pytest.raises(HfHubHTTPError, match="422") as caught:
        hub("/predict?adapter_id=acme/intent").zero_shot_classification(TEXT, ["a", "b"])
    assert "zero-shot" in caught.value.response.json()["error"]


# openai


def test_openai_embeddings(openai: OpenAI, predictor: Predictor) -> None:
    texts = [TEXT, "rain"]
    for model in ("acme/embedding", "acme/embedding@1"):
        expected = [row["vector"] for row in predictor.predict("acme/embedding", texts)]
        # The client asks for base64 if nothing is said.
        encodings: list[Any] = [{}, {"encoding_format": "float"}]
        for encoding in encodings:
            reply = openai.embeddings.create(model=model, input=texts, **encoding)
            assert [one.index for one in reply.data] == [0, 1]
            for one, vector in zip(reply.data, expected, strict=True):
                assert one.embedding == pytest.approx(vector, abs=1e-5)
            assert (reply.object, reply.model) == ("list", model)
            assert reply.usage.total_tokens == reply.usage.prompt_tokens > len(TEXT.split())


def test_openai_models(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()][:2] == ["base", "acme/embedding"]
    assert openai.models.retrieve("base").owned_by == "adapterkit"
    (one,) = openai.embeddings.create(model="base", input="rain").data
    assert np.linalg.norm(one.embedding) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "acme/nobody", "input": "a"}, "there is no adapter 'acme/nobody'"),
        ({"model": "base", "input": ["a", ""]}, "input[1]: the text is empty"),
        ({"model": "base", "input": [[1, 2, 3]]}, "numbers of tokens belong to the vocabulary of"),
        ({"model": "base", "input": "a", "dimensions": 7}, "the vectors here have 32"),
        ({"model": "acme/intent", "input": "a"}, "'acme/intent' gives no vectors"),
    ],
)
def test_openai_errors(openai: OpenAI, settings: Any, words: str) -> None:
    with pytest.raises((NotFoundError, UnprocessableEntityError)) as caught:
        openai.embeddings.create(**settings)
    assert words in str(caught.value)


def test_base64_is_little_endian_float32(url: str) -> None:
    body = {"model": "base", "input": "rain", "encoding_format": "base64"}
    reply = httpx2.post(f"{url}/v1/embeddings", json=body).json()
    (plain,) = httpx2.post(f"{url}/embed", json={"inputs": "rain"}).json()
    raw = base64.b64decode(reply["data"][0]["embedding"])
    assert np.frombuffer(raw, "<f4") == pytest.approx(np.array(plain), abs=1e-6)


# LangChain and LlamaIndex: large, and no part of the extra `test`; if they are installed, their
# clients of embeddings must work.


def test_langchain_embeddings(url: str, predictor: Predictor) -> None:
    langchain = pytest.importorskip("langchain_openai")
    client = langchain.OpenAIEmbeddings(
        model="acme/embedding",
        base_url=f"{url}/v1",
        api_key="unused",
        check_embedding_ctx_length=False,  # otherwise it sends numbers of OpenAI's tokens
    )
    expected = [row["vector"] for row in predictor.predict("acme/embedding", [TEXT, "rain"])]
    assert np.array(client.embed_documents([TEXT, "rain"])) == pytest.approx(
        np.array(expected), abs=1e-5
    )
    assert client.embed_query("rain") == pytest.approx(expected[1], abs=1e-5)


def test_llama_index_embeddings_by_openai(url: str, predictor: Predictor) -> None:
    llama_index = pytest.importorskip("llama_index.embeddings.openai_like")
    client = llama_index.OpenAILikeEmbedding(
        model_name="acme/embedding", api_base=f"{url}/v1", api_key="unused"
    )
    expected = [row["vector"] for row in predictor.predict("acme/embedding", [TEXT, "rain"])]
    assert np.array(client.get_text_embedding_batch([TEXT, "rain"])) == pytest.approx(
        np.array(expected), abs=1e-5
    )
    assert client.get_query_embedding("rain") == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.parametrize("adapter", [None, "acme/embedding"])
def test_llama_index_embeddings_by_tei(url: str, predictor: Predictor, adapter: str | None) -> None:
    llama_index = pytest.importorskip("llama_index.embeddings.text_embeddings_inference")
    path = "" if adapter is None else f"/adapters/{adapter}"
    client = llama_index.TextEmbeddingsInference(model_name="unused", base_url=f"{url}{path}")
    rows = [(adapter, TEXT), (adapter, "rain")]
    vectors = np.array([row["vector"] for row in predictor(rows)])
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.array(client.get_text_embedding_batch([TEXT, "rain"])) == pytest.approx(
        expected, abs=1e-5
    )


# TEI


def test_rerank(url: str) -> None:
    texts = ["rain", TEXT, "the sun"]
    body = {"query": TEXT, "texts": texts, "return_text": True, "raw_scores": False}
    ranks = httpx2.post(f"{url}/rerank", json=body).json()
    assert ranks[0]["index"] == 1
    assert [rank["text"] for rank in ranks] == [texts[rank["index"]] for rank in ranks]
    scores = [rank["score"] for rank in ranks]
    assert scores == sorted(scores, reverse=True)
    sentences = {"source_sentence": TEXT, "sentences": texts}
    cosines = httpx2.post(f"{url}/similarity", json={"inputs": sentences}).json()
    assert scores == pytest.approx(sorted(cosines, reverse=True))


def post(url: str, body: Any, **headers: str) -> Any:
    """The answer to a body."""
    reply = httpx2.post(url, json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_tokenize_and_decode(url: str, tiny: Backbone) -> None:
    text = "My card: lost?"
    (tokens,) = post(f"{url}/tokenize", {"inputs": text})
    (ids,) = (encoding.ids for encoding in tiny.reader.encode([text]))
    assert [token["id"] for token in tokens] == ids
    assert set(tokens[1]) == {"id", "text", "special", "start", "stop"}
    first, *inner, last = tokens
    assert [first["text"], last["text"]] == tiny.reader.tokens([ids[0], ids[-1]])
    assert (first["special"], first["start"], last["stop"]) == (True, None, None)
    assert all(text[one["start"] : one["stop"]] == one["text"] for one in inner)
    assert not any(one["special"] for one in inner)
    plain = post(f"{url}/adapters/acme/intent/tokenize", {"inputs": [text, text]} | NO_SPECIAL)
    assert plain == [inner, inner]
    assert post(f"{url}/decode", {"ids": ids}) == ["my card lost"]
    both = post(f"{url}/decode", {"ids": [ids, ids[1:2]], "skip_special_tokens": False})
    assert both == [tiny.reader.decode(ids), tiny.reader.decode(ids[1:2])]


NO_SPECIAL = {"add_special_tokens": False}


def test_embed_all(url: str, tiny_folder: Path) -> None:
    """Its vectors are the last hidden states of transformers."""
    texts = [TEXT, "rain"]
    found = post(f"{url}/embed_all", {"inputs": texts})
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    model = AutoModel.from_pretrained(tiny_folder).eval()
    for text, vectors in zip(texts, found, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert np.array(vectors) == pytest.approx(states.numpy(), abs=1e-4)
    assert np.array(post(f"{url}/embed_all", {"inputs": "rain"})[0]) == pytest.approx(
        np.array(found[1]), abs=1e-5
    )


def test_embed_all_of_an_adapter(url: str, predictor: Predictor) -> None:
    """The mean over the tokens, of length 1, is the vector of the adapter, which pools by mean."""
    (vectors,) = post(f"{url}/adapters/acme/embedding/embed_all", {"inputs": TEXT})
    mean = np.mean(vectors, axis=0)
    (expected,) = predictor.predict("acme/embedding", [TEXT])
    assert mean / np.linalg.norm(mean) == pytest.approx(np.array(expected["vector"]), abs=1e-5)


def test_long_lists_of_tokens_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_routes, "MAX_NUMBERS", 32 * 8)
    monkeypatch.setattr(token_routes, "MAX_CHARACTERS", 20)
    monkeypatch.setattr(token_routes, "MAX_IDS", 3)
    bodies = {
        "embed_all": {"inputs": TEXT},
        "tokenize": {"inputs": TEXT},
        "decode": {"ids": [3] * 4},
    }
    for path, body in bodies.items():
        reply = httpx2.post(f"{url}/{path}", json=body)
        assert reply.status_code == 413, path
        assert "accepted" in reply.json()["error"]


# Amazon SageMaker


def test_sagemaker(url: str) -> None:
    """Its endpoints call two paths, with headers of their own and the body of their caller."""
    assert httpx2.get(f"{url}/ping").status_code == 200
    headers = {"x-amzn-sagemaker-custom-attributes": "trace=1"}
    bodies: list[dict[str, Any]] = [
        {"inputs": TEXT},
        {"inputs": [TEXT, "rain"], "normalize": False},
    ]
    for body in bodies:
        assert post(f"{url}/invocations", body, **headers) == [
            pytest.approx(vector, abs=1e-5) for vector in post(f"{url}/embed", body)
        ]
    best = {"inputs": TEXT, "adapter_id": "acme/intent", "parameters": {"top_k": 2}}
    (labels,) = post(f"{url}/invocations", best, **headers)
    (expected,) = post(f"{url}/predict", best)
    assert [one["label"] for one in labels] == [one["label"] for one in expected]


# KServe


def test_readiness_of_a_model(url: str) -> None:
    for path in ("acme/intent", "acme/intent/versions/1", "acme/intent/versions/latest", "base"):
        reply = httpx2.get(f"{url}/v2/models/{path}/ready")
        assert reply.status_code == 200
        assert reply.json()["ready"]
    for path in ("acme/nobody", "acme/intent/versions/9"):
        assert httpx2.get(f"{url}/v2/models/{path}/ready").status_code == 404


def test_triton_client(url: str) -> None:
    """NVIDIA's client of the protocol; no part of the extra `test`."""
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("acme/intent")
    assert client.is_model_ready("acme/intent", "1")
    assert not client.is_model_ready("acme/nobody")
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([TEXT.encode()], dtype=object))
    labels = client.infer("acme/intent", [tensor]).as_numpy("label")
    assert labels.tolist()[0] in ("bill", "card", "loan")
    client.close()


def test_llama_index_rerank(url: str) -> None:
    """LlamaIndex's client of `/rerank`; no part of the extra `test`."""
    rerank = pytest.importorskip("llama_index.postprocessor.tei_rerank")
    schema = pytest.importorskip("llama_index.core.schema")
    nodes = [
        schema.NodeWithScore(node=schema.TextNode(text=text)) for text in ("rain", TEXT, "the sun")
    ]
    client = rerank.TextEmbeddingInference(base_url=url, top_n=2)
    best = client.postprocess_nodes(nodes, query_str=TEXT)
    assert best[0].get_content() == TEXT
    assert len(best) == 2
