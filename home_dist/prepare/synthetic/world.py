"""The users, items and tasks of the generated log. Each value is a function of (seed, number), so that none is stored.

User u and item i have latent vectors z_u and z_i, standard normal in D dimensions. Task k of group g weighs them by
w_k = a w_g + sqrt(1 - a^2) v_k: tasks of a group share w_g, v_k is the task's own, and a says how much tasks share. The logit
of an impression is

    b_k + s (w_k . (z_u * z_i)) / |w_k| + t [category of i is the user's favourite]

where b_k sets the task's share of positives to about its rate. Ids are Zipf-distributed with exponent 1: rank r has
probability ~ 1 / r. Event j of a user's life is a function of (user, j); half of the events are in the favourite category. Two
impressions of a user thus show the same past, the later one with more events.

Watch times, in seconds, follow the logit l of the first task and the item's duration d, of 5 to 120 s:

    y = d sigmoid(c + r l + n e),  e standard normal,  with probability sigmoid(l + w);  else y = 0

so that log(y / (d - y)) is linear in l among impressions that were watched at all. The draws e and "watched" are independent of
each other and of the other labels. y is rounded to ms.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from home_dist.ids.hashing import mix

LATENT = 8
CATEGORIES = 64
SHARED = 0.8
"""a: the weights of a group's tasks correlate by a^2."""
SPREAD, MATCH = 1.5, 1.0
"""s and t."""
WATCH_START, WATCH_SLOPE, WATCH_NOISE = 0.5, 0.5, 1.0
"""c, r and n."""
WATCHED = 1.5
"""w: some 7 of 10 impressions are watched at all."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PlantedTask:
    name: str
    group: str
    rate: float


TASKS = (
    PlantedTask("effective_view", "watch", 0.4),
    PlantedTask("long_view", "watch", 0.25),
    PlantedTask("complete_view", "watch", 0.1),
    PlantedTask("like", "interaction", 0.03),
    PlantedTask("comment", "interaction", 0.01),
    PlantedTask("follow", "interaction", 0.003),
)


class World:
    def __init__(self, seed: int, users: int, items: int, max_history: int):
        self.seed, self.users, self.items, self.max_history = seed, users, items, max_history
        random = np.random.default_rng([seed, 0])
        groups = {g: random.normal(size=LATENT) for g in dict.fromkeys(t.group for t in TASKS)}
        task_parts = random.normal(size=(len(TASKS), LATENT))
        weights = SHARED * np.stack([groups[t.group] for t in TASKS]) + math.sqrt(1 - SHARED**2) * task_parts
        self.task_weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
        """(K, D)"""
        self.text_map, self.frozen_map, self.score_map = (
            random.normal(size=(LATENT, 256)) / math.sqrt(LATENT) for _ in range(3)
        )

    def uniform(self, stream: int, *numbers: Ints) -> Floats:
        """(n,) uniform in (0, 1), independent for each `stream` and each entry of numbers (n,)."""
        state = np.full(1, (self.seed << 8) + stream, np.uint64)
        for number in numbers:
            state = mix(mix(state) ^ number.astype(np.int64).view(np.uint64))
        return ((state >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53

    def normal(self, stream: int, numbers: Ints, width: int) -> Floats:
        """(n, width) standard normal, by Box and Muller."""
        place = np.tile(np.arange(width), len(numbers))
        repeated = np.repeat(numbers, width)
        u, v = self.uniform(stream, repeated, place), self.uniform(stream + 1, repeated, place)
        return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(len(numbers), width)

    @staticmethod
    def zipf(u: Floats, count: int) -> Ints:
        """(n,) uniform numbers -> ids 0 to count - 1; id r has probability log(1 + 1 / (r + 1)) / log(count + 1)."""
        return np.minimum(np.exp(u * math.log(count + 1)).astype(np.int64), count) - 1

    def user_latent(self, users: Ints) -> Floats:
        return self.normal(10, users, LATENT)

    def item_latent(self, items: Ints) -> Floats:
        return self.normal(20, items, LATENT)

    def favourite(self, users: Ints) -> Ints:
        return (self.uniform(30, users) * CATEGORIES).astype(np.int64)

    @staticmethod
    def category(items: Ints) -> Ints:
        return items % CATEGORIES

    def history_lengths(self, users: Ints) -> Ints:
        """(n,) log-normal with median 30, capped at max_history. User 0 has max_history."""
        u, v = self.uniform(40, users), self.uniform(41, users)
        lengths = np.exp(math.log(30) + 1.3 * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).astype(np.int64)
        return np.where(users == 0, self.max_history, np.minimum(lengths, self.max_history))

    def events(self, users: Ints, ages: Ints) -> Ints:
        """(n,) the item of each user's event with number `ages`."""
        items = self.zipf(self.uniform(50, users, ages), self.items)
        liked = items - self.category(items) + self.favourite(users)
        return np.where((self.uniform(51, users, ages) < 0.5) & (liked < self.items), liked, items)

    def durations(self, items: Ints) -> Floats:
        """(n,) in seconds."""
        return 5 + 115 * self.uniform(105, items) ** 2

    def watch_seconds(self, numbers: Ints, items: Ints, logit: Floats) -> Floats:
        """(n,) of impressions with these numbers, items and logits of the first task."""
        share = _sigmoid(WATCH_START + WATCH_SLOPE * logit + WATCH_NOISE * self.normal(120, numbers, 1)[:, 0])
        is_watched = self.uniform(122, numbers) < _sigmoid(logit + WATCHED)
        return np.where(is_watched, np.round(self.durations(items) * share, 3), 0.0)

    def logits(self, users: Ints, items: Ints) -> Floats:
        """(n, K)"""
        match = self.favourite(users) == self.category(items)
        rates = np.array([t.rate for t in TASKS])
        # The normal spread around b pulls the mean of the logistic function to 1/2; the factor makes up for it (MacKay 1992).
        bias = np.log(rates / (1 - rates)) * math.sqrt(1 + math.pi * SPREAD**2 / 8)
        return (
            bias + SPREAD * (self.user_latent(users) * self.item_latent(items)) @ self.task_weights.T + MATCH * match[:, None]
        )


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))
