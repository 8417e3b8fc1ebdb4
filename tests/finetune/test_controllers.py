"""Weight controllers: the weights of their formulas, and how their states move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl.finetune import controllers
from metarl.finetune.controllers import Signals
from metarl.types import Progress


def signals(step=0, horizon=10, entropy=1.0, success=0.5, imitation_loss=1.0, failures=0):
    return Signals(
        Progress(jnp.int32(step), jnp.int32(horizon)),
        *(jnp.float32(x) for x in (entropy, success, imitation_loss)),
        jnp.int32(failures),
    )


def weight(controller, state=None, **seen):
    return float(
        controller.weights(
            controller.init_meta(), controller.init() if state is None else state, signals(**seen)
        ).imitation
    )


def test_controllers_without_a_memory_give_the_weights_of_their_formulas():
    assert weight(controllers.constant(0.3)) == pytest.approx(0.3)
    switch = controllers.schedule(controllers.switch(0.5))
    assert [weight(switch, step=t) for t in (0, 4, 5, 9)] == [1.0, 1.0, 0.0, 0.0]
    cosine = controllers.schedule(controllers.cosine(0.9, 0.1))
    assert [weight(cosine, step=t) for t in (0, 5, 10)] == pytest.approx([0.9, 0.5, 0.1])
    gate = controllers.success_gate(8)
    assert [weight(gate, failures=n) for n in (0, 7, 8, 20)] == [0.0, 0.0, 1.0, 1.0]
    srft = controllers.srft_of_amft(0.5, 0.1).weights((), (), signals(entropy=2.0))
    assert (float(srft.imitation), float(srft.reward)) == pytest.approx((0.5 * np.exp(-2), 0.1 * np.exp(-2)))


def test_the_servo_imitates_less_while_entropy_is_above_its_target():
    """AMFT's equation 6 without the meta-gradient; the prose has the other sign."""
    servo = controllers.entropy_servo(0.5, rate=0.1, target=1.0, low=0.2, high=0.9)
    for entropy, expected in ((2.0, 0.4), (0.0, 0.6), (9.0, 0.2), (-9.0, 0.9)):
        state, objective = servo.update((), servo.init(), signals(entropy=entropy))
        assert weight(servo, state) == pytest.approx(expected) and objective == 0.0
    other = controllers.entropy_servo(0.5, rate=0.1, target=1.0, sign=-1.0)
    assert weight(other, other.update((), other.init(), signals(entropy=2.0))[0]) == pytest.approx(0.6)


@pytest.mark.parametrize("make", [controllers.entropy_servo, controllers.amft])
def test_a_warm_up_imitates_and_the_entropy_after_it_is_the_target(make):
    controller = make(0.5, warm_up=2)
    state = controller.init()
    for step, entropy, target in ((0, 5.0, 5.0), (1, 4.0, 4.0), (2, 3.0, 3.0), (3, 1.0, 3.0)):
        assert weight(controller, state, step=step) == pytest.approx(1.0 if step < 2 else 0.5)
        after, objective = controller.update(controller.init_meta(), state, signals(step=step, entropy=entropy))
        assert (after[1] if make is controllers.entropy_servo else after) == target
        assert (objective == 0.0) == (step < 3 or make is controllers.entropy_servo)
        state = after


def test_dual_ascent_raises_the_multiplier_until_the_constraint_holds():
    dual = controllers.dual_ascent(limit=0.5, rate=0.1, initial=1.0)
    assert weight(dual) == 0.5
    state, _ = dual.update((), dual.init(), signals(imitation_loss=2.5))
    assert state == pytest.approx(1.2) and weight(dual, state) == pytest.approx(1.2 / 2.2)
    assert dual.update((), jnp.float32(0.01), signals(imitation_loss=0.0))[0] == 0.0


def test_amfts_objective_pulls_as_the_equation_says():
    """Descending it moves mu by entropy_rate (H* - H), times sign."""
    for sign in (1.0, -1.0):
        amft = controllers.amft(0.4, entropy_rate=0.7, target=1.0, sign=sign, low=0.1, high=0.9)
        meta = amft.init_meta()
        assert weight(amft) == pytest.approx(0.4)
        slope = jax.grad(lambda meta: amft.update(meta, amft.init(), signals(entropy=3.0))[1])(meta)["logit"]  # noqa: B023
        mu = jax.grad(lambda meta: amft.weights(meta, amft.init(), signals()).imitation)(meta)["logit"]  # noqa: B023
        assert -slope == pytest.approx(float(sign * 0.7 * (1.0 - 3.0) * mu), rel=1e-5)


def test_amft_is_not_moved_by_a_meta_gradient_during_the_warm_up():
    amft = controllers.amft(0.5, warm_up=2, target=1.0)

    @jax.jit
    def slope(step):
        seen = signals()._replace(progress=Progress(step, jnp.int32(10)))
        return jax.grad(lambda meta: amft.weights(meta, amft.init(), seen).imitation)(amft.init_meta())["logit"]

    assert [bool(slope(jnp.int32(t)) != 0) for t in range(4)] == [False, False, True, True]


def test_the_logit_of_a_natural_weight_moves_as_far_everywhere():
    """The weights are the same, and their derivative by the logit is 1 instead of the sigmoid's."""
    for initial in (0.02, 0.5, 0.9):
        slopes = []
        for natural in (False, True):
            amft = controllers.amft(initial, low=0.0, high=1.0, target=1.0, entropy_rate=2.0, natural=natural)
            meta = amft.init_meta()
            assert weight(amft) == pytest.approx(initial, rel=1e-5)
            of_weight = jax.grad(lambda meta: amft.weights(meta, amft.init(), signals()).imitation)  # noqa: B023
            of_entropy = jax.grad(lambda meta: amft.update(meta, amft.init(), signals(entropy=1.5))[1])  # noqa: B023
            slopes.append((float(of_weight(meta)["logit"]), float(of_entropy(meta)["logit"])))
        sigmoid = initial * (1.0 - initial)
        assert slopes == [pytest.approx((sigmoid, sigmoid), rel=1e-4), (1.0, 1.0)]


def test_a_controller_vmaps_over_its_hyperparameters():
    def run(rate):
        servo = controllers.entropy_servo(0.5, rate=rate, target=1.0)
        return servo.update((), servo.init(), signals(entropy=2.0))[0][0]

    np.testing.assert_allclose(jax.vmap(run)(jnp.array([0.0, 0.1, 0.2])), [0.5, 0.4, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: controllers.constant(1.2), "imitation must be at most 1, got 1.2"),
        (lambda: controllers.constant(float("nan")), "imitation must be a number, not NaN, got nan"),
        (lambda: controllers.srft_of_amft(-1.0), "imitation must be at least 0, got -1.0"),
        (lambda: controllers.success_gate(0), "failures must be at least 1, got 0"),
        (lambda: controllers.amft(0.01), "initial must lie between low and high, got 0.05, 0.01 and 0.95"),
        (lambda: controllers.entropy_servo(0.5, high=1.5), "high must be at most 1, got 1.5"),
    ],
)
def test_bad_hyperparameters_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
