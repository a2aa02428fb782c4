"""The KV pool can be taken from the system in the background, also while the executor is being closed."""

from __future__ import annotations

from tests.support.native_models import native_executor
from tests.support.reference_models import one_sequence, tiny_model


def test_the_pool_is_populated_and_tokens_stay_the_same() -> None:
    model = tiny_model("llama")
    ids, table = [1, 2, 3, 4, 5], [0]
    plain = native_executor(model, "int4_f16_min").step(one_sequence(ids, table=table))
    executor = native_executor(model, "int4_f16_min")
    executor.populate_kv().join()
    assert (executor.step(one_sequence(ids, table=table)).logits == plain.logits).all()


def test_closing_ends_the_population() -> None:
    executor = native_executor(tiny_model("llama"), num_blocks=20_000)
    thread = executor.populate_kv()
    executor.close()
    thread.join()
    assert not thread.is_alive()
