"""Numbers of the published evaluation (arXiv 2601.16407), to stand beside ours.

Ranges over its cells: Llama-3.2 1B and 3B, Qwen2.5 1.5B and 3B, Gemma-3 1B and 4B, each on LAMBADA and IWSLT 2017
DE-EN with 1,000 passages (500 in one). The paper prints AOPC with the other sign.
"""

from __future__ import annotations

from benchmarks.replication.methods import (
    FISHER,
    FISHER4,
    IG,
    IXG,
    PATH,
    RANDOM,
    SEMANTIC,
    TEMPERATURE,
)

Range = tuple[float, float]

ACCURACY: Range = (0.592, 0.775)
ZERO: dict[str, Range] = {
    RANDOM: (0.181, 0.418),
    IG: (0.576, 1.714),
    IXG: (0.768, 1.720),
    SEMANTIC: (0.777, 1.775),
    TEMPERATURE: (0.760, 1.861),
    FISHER: (0.797, 1.814),
}
CORRECT: dict[str, Range] = {
    RANDOM: (0.180, 0.488),
    IG: (0.585, 1.912),
    IXG: (0.796, 1.997),
    SEMANTIC: (0.806, 2.064),
    TEMPERATURE: (0.791, 2.060),
    FISHER: (0.827, 2.073),
}
PAD: dict[str, Range] = {
    RANDOM: (0.14, 0.85),
    IG: (0.42, 2.08),
    IXG: (0.43, 2.09),
    SEMANTIC: (0.42, 2.00),
    TEMPERATURE: (0.48, 2.34),
    FISHER: (0.46, 2.11),
}
# Llama-3.2 1B and 3B on LAMBADA: Spearman, tau-b, Jaccard, rank of the top token in percent, and the
# share of passages whose top token is among leave-one-out's first 5%.
AGREEMENT: dict[str, tuple[Range, Range, Range, Range, Range]] = {
    RANDOM: ((-0.004, 0.005), (-0.002, 0.003), (0.057, 0.060), (48.5, 48.9), (0.063, 0.072)),
    PATH: ((0.300, 0.321), (0.209, 0.224), (0.178, 0.275), (29.5, 42.8), (0.062, 0.393)),
    IXG: ((0.535, 0.556), (0.384, 0.401), (0.297, 0.373), (5.7, 11.7), (0.562, 0.718)),
    SEMANTIC: ((0.552, 0.562), (0.398, 0.406), (0.321, 0.388), (6.6, 10.2), (0.599, 0.715)),
    TEMPERATURE: ((0.528, 0.550), (0.379, 0.397), (0.313, 0.395), (8.0, 12.3), (0.563, 0.691)),
    FISHER4: ((0.575, 0.590), (0.417, 0.430), (0.345, 0.427), (5.5, 9.4), (0.618, 0.750)),
}
# Spearman and Jaccard after a quarter, half and all of the blocks.
RANDOMISED: dict[str, tuple[tuple[Range, Range], ...]] = {
    SEMANTIC: (
        ((0.606, 0.880), (0.236, 0.587)),
        ((0.473, 0.805), (0.138, 0.495)),
        ((0.090, 0.339), (0.108, 0.285)),
    ),
    TEMPERATURE: (
        ((0.608, 0.866), (0.231, 0.568)),
        ((0.503, 0.807), (0.139, 0.471)),
        ((0.106, 0.356), (0.112, 0.283)),
    ),
    FISHER: (
        ((0.570, 0.857), (0.197, 0.557)),
        ((0.449, 0.794), (0.112, 0.508)),
        ((0.070, 0.329), (0.093, 0.283)),
    ),
}
