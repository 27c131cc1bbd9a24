#!/usr/bin/env python3
"""How steep a valley may be for SGD with momentum whose gradients come late: the table in docs/study.md.

Run: python stability.py        (needs numpy)

One weight w, loss h w^2 / 2, learning rate r, momentum u. The gradient that update t uses was taken `lag` updates ago, at the weight that
was predicted then:

    y_t = w_t - r (a v_t + b g_t)       the look-ahead: a along the velocity, b along the last gradient
    g_t = h y_(t - lag)
    v_(t+1) = u v_t + g_t;   w_(t+1) = w_t - r (c v_(t+1) + d g_t)         plainly c = 1, d = 0; spike compensation changes them

That is linear: training is stable while the largest eigenvalue of one update stays within the unit circle. Printed is the largest r h for
which it does, for u = 0.9. Without lag it is 2 (1 + u) = 3.8.
"""
import numpy as np

U = 0.9


def radius(rh, lag, a, b, c, d):
    """The largest eigenvalue of the update of (w, v, last gradient, y of the last `lag` updates)."""
    n = 3 + lag
    y, v, w, g = (np.zeros(n) for _ in range(4))
    y[:3] = 1, -a, -b
    g[:] = rh * y if lag == 0 else 0
    if lag:
        g[2 + lag] = rh
    v[1] = U
    v += g
    w[0] = 1
    w -= c * v + d * g
    update = np.zeros((n, n))
    update[0], update[1], update[2] = w, v, g
    if lag:
        update[3] = y
        for k in range(1, lag):
            update[3 + k, 2 + k] = 1
    return abs(np.linalg.eigvals(update)).max()


def limit(lag, rule):
    last = 0
    for rh in np.geomspace(1e-3, 8, 900):
        if radius(rh, lag, *rule) > 1 + 1e-9:
            return last
        last = rh
    return last


def main():
    def rules(s):
        late = ((U**s), (1 - U**s) / (1 - U))
        decayed = sum(U**j for j in range(1, s + 1))
        return {
            "no correction": (0, 0, 1, 0),
            "paper, exact: s v": (s, 0, 1, 0),
            "decayed": (decayed, 0, 1, 0),
            "released: (s + 1) (u v + g)": ((s + 1) * U, s + 1, 1, 0),
            "spike compensation": (0, 0, *late),
            "spike compensation and s v": (s, 0, *late),
        }

    lags = (1, 2, 3, 6, 9)
    print("| |" + "|".join(f" lag {lag} " for lag in lags) + "|\n|---|" + "---|" * len(lags))
    for name in rules(1):
        print(f"| {name} |" + "|".join(f" {limit(lag, rules(lag)[name]):.3f} " for lag in lags) + "|")


main()
