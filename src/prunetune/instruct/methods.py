"""The table of methods of text runs. `text_method=<name>` chooses a row. This module does not import torch."""

from prunetune.config.methods import PRIOR, row

GAMMA = {"sampler.gamma": "auto"}  # Gamma is chosen on the validation questions of the tasks.
LATE = {"sampler.gamma": 0.75, "tag": "g0.75"}

_ROWS = (
    row("dlc", "The paper's method: DLC with FlexRand at a gamma chosen by validation.", "", "flexrand", GAMMA),
    row("dlc_g0.25", "DLC with FlexRand at gamma 0.25, one of the two that the paper used.", "dlc", "flexrand", PRIOR),
    row("dlc_g0.75", "DLC with FlexRand at gamma 0.75, one of the two that the paper used.", "dlc", "flexrand", LATE),
    row("dlc_released", "DLC of the released code: masks 0, 20, 20 %, and the head.", "", "flexrand", PRIOR),
    row("ifd_loss", "IFD as a ratio of losses (2308.12032): the highest below 1."),
    row("ifd_ppl", "IFD as a ratio of perplexities (2402.00530): the highest below 1."),
    row("lc_dropout_easy", "The method of version 1: the easiest under dropout.", "lc_dropout", "topk_easiest"),
    row("lc_dropout_hard", "The hardest under dropout, a row of the table of version 1.", "lc_dropout"),
    row("longest", "The longest responses (2402.04833)."),
    row("perplexity_high", "Responses of the highest perplexity (2405.20541)."),
    row("perplexity_low", "Responses of the lowest perplexity (2405.20541)."),
    row("perplexity_mid", "Responses of medium perplexity (2405.20541)."),
    row("random", "The baseline: a uniform draw from the corpus.", "random", "random"),
    row("rds_plus", "RDS+ (2503.01807): nearest to a query set; pass text_scorer.queries=<file>."),
    row("s2l", "S2L (2403.07384): equal draws from clusters of a small proxy's loss trajectories."),
    row("source_balanced_random", "Equal draws from every source of the corpus (2410.09335)."),
)

TEXT_METHODS = {method.name: method for method in _ROWS}
