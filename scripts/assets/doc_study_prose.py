"""The longer texts of the page of the study."""

WORDS = """\
Terms. [Methods](methods.md), [Scorers](scorers.md) and [Samplers](samplers.md) describe the methods.

- *DLC* is the difficulty score of the paper. *FlexRand* is its sampler, which keeps a random mix of easy and hard
  images. *Gamma* is the share of a class that FlexRand treats as easy.
- A *pass* is one run of the network over all images. A *candidate* is a method of at most 1.2 passes.
- A *sub-pool* is a random 80 % of each class. The *judge* is the classifier that is trained on the kept images.
- A *set* is a data set, a *pair* a set with a network, a *cell* a pair with a budget (how much is kept). *micro* is the
  tiny network of this package."""

INTERVALS = """\
## How the intervals were made

- **Pairs.** All methods choose from the same sub-pools, so each difference is between two accuracies on the same
  sub-pool, network and test set. A sub-pool is a random 80 % of each class.
- **Unit.** The mean is formed over the sub-pools of each network, then over the networks of each set, then over sets.
  Each set counts once. Student's 95 % interval is formed from the means of sets, since sets are the only parts that are
  independent: networks share images, and sub-pools of one set overlap.
- **Many comparisons.** "Corrected" means Holm's method for p-values and Bonferroni's for intervals. At 2 to 20 %
  together the family is all methods, elsewhere all methods and budgets.
- **Overlap.** The interval of one cell (a set, a network, a budget) is formed over sub-pools, and says how sure the
  difference is for this pool and these test images. For another pool it must be wider, since sub-pools share images:
  their variance is multiplied by 1 + J s / (1 - s), for J sub-pools that each have the share s of the pool. Wins and
  losses are counted with both."""

BEST = """\
The best has the highest mean difference from random among the candidates. *Gain* is that difference in points of
accuracy with its 95 % interval. The gain of the best of several methods is a little too high: part of it is luck.

*No clear difference* names the methods whose difference from the best has an interval that contains 0. After
"corrected, also" come the methods that join them when the intervals are corrected for the number of methods. *At any
cost* is the best of all methods, where it is another one.

The first table counts images, the second one fractions. Two small fractions can keep as many images: on Caltech-101
both 2 and 5 % are one image of each class. Row "1" of the first table includes such cells, so it differs a little
from the row "one image a class"."""

CLAIMS = """\
The paper says that DLC + FlexRand keeps better images than other methods, that FlexRand is better than keeping the
easiest images, and that the score is cheap. Each line is one comparison, over 2 to 20 % kept. The margin is 0: a claim
*holds* if the first method is better, and *does not hold* if it is worse. It *cannot be told here* if the test over
sets gives p of 0.05 or more, or if there are fewer than three sets. Comparisons other than the declared ones are
corrected (Holm) for the number of claims in their group, which the column *correction* names. In brackets stands the
verdict without correction, where it is another one. All verdicts are about these sets, networks and classifiers: the
paper's own were not run.

The study revealed a bug in the search for gamma. It searched on a part of the pool, and kept fewer images there than
the run keeps ([Choosing gamma](method_notes.md#choosing-gamma)). *First search* is DLC + FlexRand with that bug, as
declared. It was run on eight pairs and five sub-pools. *DLC + FlexRand* has the search as it is now."""
