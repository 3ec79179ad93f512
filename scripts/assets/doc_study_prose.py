"""The longer texts of the page of the study."""

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
The best has the highest mean difference to random among methods of at most 1.2 forward passes. *Gain* is that
difference in points of accuracy with its 95 % interval. *Not told apart* are methods for which the interval of the
difference to the best contains 0. After "corrected, also" stand those that are told apart only without a correction for
the number of methods. *At any cost* is the best of all methods, where it is another one. The gain of a best of many is
rather too large, since luck helped to choose it. Small sets keep one image of a class at 2 % too, so the row "1" of the
first table has more cells than "one image a class" of the second."""

CLAIMS = """\
The paper says that DLC + FlexRand keeps better images than other methods, that FlexRand is better than keeping the
easiest images, and that the score is cheap. Each line is one comparison, over 2 to 20 % kept. The margin is 0: a claim
*holds* if the first method is better, and *does not hold* if it is worse. It *cannot be told here* if the test over
sets gives p of 0.05 or more, or if there are fewer than three sets. Comparisons other than the declared ones are
corrected for their number. All verdicts are about these sets, networks and classifiers: the paper's own were not run.

The study showed a fault of the search for gamma: of a part of the pool it kept fewer images than the run
([Choosing gamma](method_notes.md#choosing-gamma)). *First search* is DLC + FlexRand with that fault, as it was
declared. *DLC + FlexRand* has the search as it is now."""
