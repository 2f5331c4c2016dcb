"""The metrics of a lens, by name."""

METRICS: dict[str, str] = {
    "final_probability": "probability of the final layer's top token",
    "probability": "probability of the target",
    "log_probability": "log-probability of the target (nats)",
    "surprisal": "surprisal of the target (nats)",
    "rank": "rank of the target",
    "entropy": "entropy (nats)",
    "kl": "KL(final || layer) (nats)",
    "agreement": "top token is the final layer's",
}
"""Every metric, and how a figure calls it."""
