"""Checking the claims of many papers on many seeds, in parallel processes."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from joblib import Parallel, delayed
from tqdm import tqdm

from paperlab.catalog import paper
from paperlab.claims import Claim


@dataclass(frozen=True)
class Trial:
    """One paper at one seed: how many claims held, the worst margin and its claim, and what fell short, in words."""

    paper: str
    seed: int
    held: int
    claims: int
    controls_failed: int
    worst_margin: float
    worst_claim: str
    shortfalls: tuple[str, ...]
    cpu_seconds: float

    def asdict(self) -> dict:
        return asdict(self)


def trial(id: str, seed: int) -> Trial:
    """Run one paper's experiment at one seed. What it raises is a shortfall, not the end of the audit."""
    start = time.process_time()
    try:
        module = paper(id).module()
        claims = [row for row in module.claims(module.experiment(seed)) if isinstance(row, Claim)]
        if not claims:
            raise ValueError("claims() has no claim")
    except Exception as error:  # an audit of 314 papers goes on, and reports it
        words = (f"seed {seed}: {type(error).__name__}: {error}",)
        return Trial(id, seed, 0, 0, 0, float("-inf"), "", words, time.process_time() - start)
    worst = min(claims, key=lambda claim: claim.margin)
    return Trial(
        id,
        seed,
        held=sum(claim.verdict == "holds" for claim in claims),
        claims=len(claims),
        controls_failed=sum(claim.control_fails for claim in claims),
        worst_margin=worst.margin,
        worst_claim=worst.id,
        shortfalls=tuple(f"seed {seed}: {row.id}: {row.verdict}" for row in claims if row.verdict != "holds"),
        cpu_seconds=time.process_time() - start,
    )


def audit(ids: Sequence[str], seeds: Iterable[int], jobs: int = -1) -> list[Trial]:
    """All trials, papers in the order given, seeds ascending; ``jobs`` processes, -1 for all cores."""
    work = [(id, seed) for id in ids for seed in seeds]
    running = Parallel(n_jobs=jobs, return_as="generator")(delayed(trial)(id, seed) for id, seed in work)
    return list(tqdm(running, total=len(work), desc="experiments", leave=False))
