"""Sequence policies: reading with and without a cache are the same function, and samples are what they say."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from metarl.finetune.policies import Prefix, answer_logits, evaluate_answers, gru, sample, transformer, until_end

B, V, P, T, END = 8, 5, 3, 6, 4  # the same batch everywhere: few programs to compile
KINDS = {"transformer": transformer(V, 8, layers=1, heads=2, max_length=P + T), "gru": gru(V, 8)}


def some_params(policy, seed=0):
    """Far from uniform, and no parameter is zero."""
    noise = np.random.default_rng(seed)
    params = jax.jit(policy.init)(jax.random.key(seed))
    return jax.tree.map(lambda x: x + 0.4 * noise.normal(size=x.shape).astype(np.float32), params)


@pytest.fixture(scope="module", params=KINDS)
def policy(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def params(policy):
    params = some_params(policy)
    params["logits"]["bias"] = params["logits"]["bias"].at[END].add(1.0)  # so that some answers end early
    return params


@pytest.fixture(scope="module")
def apply(policy):
    return jax.jit(policy.apply)


@pytest.fixture(scope="module")
def draw(policy):
    """T tokens without a prefix."""

    @jax.jit
    def draw(params, prompts, key, temperature):
        return sample(policy, params, prompts, key, T, END, temperature)

    return draw


@pytest.fixture(scope="module")
def evaluate(policy):
    return jax.jit(lambda params, prompts, answers: evaluate_answers(policy, params, prompts, answers, END))


def some_tokens(*shape, seed=0):
    return jax.random.randint(jax.random.key(seed), shape, 0, V)


def test_reading_through_the_cache_is_reading_at_once(policy, params, apply):
    tokens = some_tokens(P + T)
    expected = apply(params, tokens)
    logits, cache = jax.jit(policy.prefill, static_argnums=2)(params, tokens[:P], T)
    decode = jax.jit(policy.decode)
    np.testing.assert_allclose(logits, expected[P - 1], atol=1e-5)
    for i in range(P, P + T):
        logits, cache = decode(params, cache, tokens[i])
        np.testing.assert_allclose(logits, expected[i], atol=1e-5)
    assert decode._cache_size() == 1


def test_a_later_token_changes_no_earlier_logits(params, apply):
    tokens = some_tokens(P + T)
    before = apply(params, tokens)
    for i in range(P + T):
        after = apply(params, tokens.at[i].set((tokens[i] + 1) % V))
        np.testing.assert_allclose(after[:i], before[:i], atol=1e-6)
        assert (np.abs(after[i:] - before[i:]).max(-1) > 1e-5).all()  # and nothing is forgotten


def test_vmap_is_a_loop(policy, params, draw):
    """Over parameters, prompts, keys and temperatures, all of which share one program."""
    many = jax.tree.map(lambda *x: jnp.stack(x), params, *(some_params(policy, seed) for seed in (7, 8)))
    prompts, keys, temperatures = some_tokens(3, B, P), jax.random.split(jax.random.key(3), 3), [0.0, 0.5, 2.0]
    together = jax.jit(jax.vmap(draw))(many, prompts, keys, jnp.array(temperatures))
    for i, temperature in enumerate(temperatures):
        alone = draw(jax.tree.map(lambda x, i=i: x[i], many), prompts[i], keys[i], temperature)
        np.testing.assert_array_equal(together.tokens[i], alone.tokens)
        np.testing.assert_allclose(together.log_prob[i], alone.log_prob, atol=1e-5)


@pytest.mark.parametrize("policy", ["gru"], indirect=True)  # the transformer's takes seconds
def test_jit_changes_nothing(policy, params, draw):
    prompts, key = some_tokens(B, P), jax.random.key(4)
    plain, compiled = sample(policy, params, prompts, key, T, END, 0.7), draw(params, prompts, key, 0.7)
    np.testing.assert_array_equal(plain.tokens, compiled.tokens)
    np.testing.assert_allclose(plain.log_prob, compiled.log_prob, atol=1e-5)


def test_the_policy_is_nearly_uniform_at_birth(policy, apply):
    logits = apply(jax.jit(policy.init)(jax.random.key(0)), some_tokens(P + T))
    assert np.ptp(jax.nn.softmax(logits)) < 0.1


def test_newborn_policies_need_no_matrix_decomposition(policy):
    program = jax.jit(jax.vmap(policy.init)).lower(jax.random.split(jax.random.key(0), 4)).as_text().lower()
    assert "lapack" not in program and "qr" not in program.replace("sqrt", "")


def test_a_transformer_is_what_its_papers_write():
    policy = transformer(V, 8, layers=2, heads=2, max_length=P + T)
    params, tokens = jax.tree.map(np.asarray, some_params(policy)), np.asarray(some_tokens(P + T))

    def norm(p, x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    x = params["embedding"]["embedding"][tokens] + params["positions"]
    for p in (params["block_0"], params["block_1"]):
        query, key, value = np.split(norm(p["LayerNorm_0"], x) @ p["query_key_value"]["kernel"], 3, -1)
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = query[:, head] @ key[:, head].T / np.sqrt(4)
            heads.append(softmax(np.where(np.tri(P + T, dtype=bool), scores, -np.inf)) @ value[:, head])
        x = x + np.concatenate(heads, -1) @ p["attended"]["kernel"]
        hidden = norm(p["LayerNorm_1"], x) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
        x = x + np.asarray(jax.nn.gelu(hidden)) @ p["out"]["kernel"] + p["out"]["bias"]
    logits = norm(params["LayerNorm_0"], x) @ params["logits"]["kernel"] + params["logits"]["bias"]
    np.testing.assert_allclose(jax.jit(policy.apply)(params, tokens), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
def test_samples_are_what_the_policy_thinks_of_them(params, draw, evaluate, temperature):
    """At any temperature: the log-probability is the policy's own."""
    prompts = some_tokens(B, P)
    samples = draw(params, prompts, jax.random.key(1), temperature)
    assert samples.tokens.dtype == jnp.int32 and all(x.shape == (B, T) for x in samples)
    assert not samples.mask.all() and samples.mask[:, 1].any()  # some answers end early, some do not at once
    for name, again in evaluate(params, prompts, samples.tokens)._asdict().items():
        np.testing.assert_allclose(getattr(samples, name), again, atol=1e-5, err_msg=name)


def test_temperatures_share_one_program(params, draw):
    for temperature in (0.0, 0.5, 1.0, 2.0):
        draw(params, some_tokens(B, P), jax.random.key(0), temperature)
    assert draw._cache_size() == 1


def test_temperature_zero_is_greedy_and_rows_do_not_meet(params, apply, draw):
    """Against arg max over everything read again for every token, one row after the other."""
    prompts = some_tokens(B, P)
    samples = draw(params, prompts, jax.random.key(2), 0.0)
    for prompt, tokens in zip(np.asarray(prompts), np.asarray(samples.tokens), strict=True):
        alive = True
        for i in range(T):
            read = np.zeros(P + T, np.int32)  # what comes later does not matter
            read[:P], read[P : P + i] = prompt, tokens[:i]
            expected = int(apply(params, read)[P + i - 1].argmax()) if alive else END
            assert tokens[i] == expected
            alive = alive and expected != END


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    """All answers of two tokens, whose probabilities come from the logits."""
    policy, rows = gru(3, 8), 4000
    params, prompts = some_params(policy), jnp.zeros((rows, 2), jnp.int32)
    draw = jax.jit(partial(sample, policy, length=2, end=2))
    samples = draw(params, prompts, jax.random.key(0), temperature=temperature)
    answers = jnp.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 2]])

    @jax.jit
    def probability(params):
        log_probs = jax.nn.log_softmax(answer_logits(policy, params, prompts[:7], answers) / temperature)
        each = jnp.take_along_axis(log_probs, answers[..., None], -1)[..., 0]
        return jnp.exp(jnp.where(until_end(answers, 2), each, 0.0).sum(1))

    expected = np.asarray(probability(params), float)
    np.testing.assert_allclose(expected.sum(), 1.0, atol=1e-5)
    counts = (samples.tokens[:, None] == answers).all(-1).sum(0)
    assert counts.sum() == rows and expected.min() > 0.01
    assert scipy.stats.chisquare(counts, rows * expected / expected.sum()).pvalue > 0.01


def test_entropy_and_log_probability_are_those_of_the_softmax(params, apply, evaluate):
    prompts, answers = some_tokens(B, P), some_tokens(B, T, seed=1)
    result = evaluate(params, prompts, answers)
    for b in range(B):
        probs = np.asarray(jax.nn.softmax(apply(params, jnp.concatenate([prompts[b], answers[b]]))), float)
        for i, token in enumerate(np.asarray(answers[b])):
            if END in np.asarray(answers[b])[:i]:
                assert result.log_prob[b, i] == result.entropy[b, i] == 0.0 and not result.mask[b, i]
            else:
                p = probs[P + i - 1]
                np.testing.assert_allclose(result.log_prob[b, i], np.log(p[token]), atol=1e-5)
                np.testing.assert_allclose(result.entropy[b, i], scipy.stats.entropy(p), atol=1e-5)


def test_an_answer_lasts_until_its_first_end(params, draw):
    np.testing.assert_array_equal(until_end(jnp.array([0, 4, 1, 4]), 4), [True, True, False, False])
    np.testing.assert_array_equal(until_end(jnp.array([4, 4]), 4), [True, False])
    np.testing.assert_array_equal(until_end(jnp.array([0, 1]), 4), [True, True])
    samples = draw(params, some_tokens(B, P), jax.random.key(1), 1.0)
    np.testing.assert_array_equal(samples.mask, until_end(samples.tokens, END))
    assert (samples.tokens[~samples.mask] == END).all()


def test_a_prefix_is_forced_and_the_rest_is_drawn(policy, params, draw, evaluate):
    prompts, prefix = some_tokens(B, P), some_tokens(B, T, seed=1) % END  # without an end
    lengths = jnp.array([0, 1, 3, T, 3, 0, 0, 0])
    prefix = prefix.at[4, 1].set(END)  # an answer that ends inside its prefix

    @jax.jit
    def forced(key, prefix, lengths):
        return sample(policy, params, prompts, key, T, END, 1.0, Prefix(prefix, lengths))

    samples = forced(jax.random.key(0), prefix, lengths)
    for row, taken in enumerate([0, 1, 3, T, 2]):
        np.testing.assert_array_equal(samples.tokens[row, :taken], prefix[row, :taken])
    assert (samples.tokens[4, 2:] == END).all()
    again = evaluate(params, prompts, samples.tokens)
    np.testing.assert_allclose(samples.log_prob, again.log_prob, atol=1e-5)
    unforced = draw(params, prompts, jax.random.key(0), 1.0)
    np.testing.assert_array_equal(samples.tokens[lengths == 0], unforced.tokens[lengths == 0])
    others = forced(jax.random.key(1), prefix, lengths)
    np.testing.assert_array_equal(others.tokens[3], samples.tokens[3])  # nothing is left to chance
    assert (others.tokens[5:] != samples.tokens[5:]).any()


def test_a_gradient_reaches_every_parameter(policy, params):
    prompts, answers = some_tokens(B, P), some_tokens(B, T + 1, seed=1) % END

    @jax.jit
    @jax.grad
    def gradient(params):
        return evaluate_answers(policy, params, prompts, answers, END).log_prob.sum()

    read = jnp.unique(jnp.concatenate([prompts, answers[:, :-1]], axis=1))
    for path, x in jax.tree_util.tree_leaves_with_path(gradient(params)):
        reached = x[read] if "'embedding'" in str(path) else x
        assert jnp.isfinite(x).all() and (jnp.abs(reached) > 0).all(), path


@pytest.mark.parametrize("policy", ["transformer"], indirect=True)
def test_writing_to_the_cache_touches_one_row_of_it(params, draw):
    """A shared position keeps it a slice update: a scatter would be slow, a copy of the cache in every step slower."""
    lowered = draw.lower(params, some_tokens(B, P), jax.random.key(0), 1.0)
    program = lowered.compile({"xla_disable_hlo_passes": ""}).as_text()  # with the passes that tests leave out
    cache = rf"f32\[{B},2,{P + T - 1},4\]\S*"
    assert not re.search(r" scatter\(", program)
    assert re.search(rf"= {cache} dynamic-update-slice\(", program)
    assert not re.search(rf"= {cache} (copy|transpose)\(", program)


TRANSFORMER = KINDS["transformer"]
PARAMS = jax.jit(TRANSFORMER.init)(jax.random.key(0))
PROMPTS = jnp.zeros((2, P), jnp.int32)
draw_from = partial(sample, TRANSFORMER, PARAMS, PROMPTS, jax.random.key(0))


def test_the_last_token_of_an_answer_needs_no_room():
    draw = jax.jit(partial(sample, TRANSFORMER, length=1, end=END))
    samples = draw(PARAMS, some_tokens(2, P + T), jax.random.key(0))
    assert samples.tokens.shape == (2, 1) and samples.mask.all() and jnp.isfinite(samples.log_prob).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transformer(0), "num_tokens must be at least 1, got 0"),
        (lambda: transformer(V, width=0), "width must be at least 1, got 0"),
        (lambda: transformer(V, layers=0), "layers must be at least 1, got 0"),
        (lambda: transformer(V, heads=-1), "heads must be at least 1, got -1"),
        (lambda: transformer(V, max_length=0), "max_length must be at least 1, got 0"),
        (lambda: transformer(V, mlp_ratio=0), "mlp_ratio must be at least 1, got 0"),
        (lambda: transformer(V, width=10, heads=4), "heads must divide width, got heads=4 and width=10"),
        (lambda: gru(V, width=0), "width must be at least 1, got 0"),
        (lambda: gru(-1), "num_tokens must be at least 1, got -1"),
        (lambda: TRANSFORMER.apply(PARAMS, jnp.zeros(10, jnp.int32)), "at most max_length=9 tokens long, got 10"),
        (lambda: TRANSFORMER.apply(PARAMS, PROMPTS), r"tokens must be \[L\].*got shape \(2, 3\)"),
        (lambda: TRANSFORMER.prefill(PARAMS, PROMPTS[0], T + 1), "at most max_length=9 tokens long, got 10"),
        (lambda: draw_from(T + 2, END), "at most max_length=9 tokens long, got 10"),
        (lambda: draw_from(0, END), "length must be at least 1, got 0"),
        (lambda: draw_from(T, V), "end must be a token between 0 and 4, got 5"),
        (lambda: draw_from(T, END, -1.0), "temperature must be at least 0, got -1.0"),
        (
            lambda: draw_from(T, END, 1.0, Prefix(jnp.zeros((2, 1), jnp.int32), jnp.zeros(2, jnp.int32))),
            r"the prefix must have tokens \[B, length\] = \(2, 6\).*got \(2, 1\)",
        ),
        (
            lambda: sample(TRANSFORMER, PARAMS, PROMPTS[0], jax.random.key(0), T, END),
            r"prompts must be \[B, P\] with P at least 1, got shape \(3,\)",
        ),
        (
            lambda: evaluate_answers(TRANSFORMER, PARAMS, PROMPTS, jnp.zeros((3, T), jnp.int32), END),
            r"answers must be \[B, T\] with B=2 and T at least 1, got shape \(3, 6\)",
        ),
        (lambda: evaluate_answers(TRANSFORMER, PARAMS, PROMPTS, PROMPTS, -1), "end must be a token.*got -1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_compiles(call, message):
    with pytest.raises(ValueError, match=message):
        call()
