"""Writes benchmarks/papers/README.md from the studies' results, and what is to be said of them.

python benchmarks/papers/report.py
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTRODUCTION = """\
# Papers, done again

Each study is a command, a results file (`results/*.json`), a table and mostly a picture made from it, and what agrees with
the paper and what does not. Seeds are told, spreads are standard deviations over seeds, and what came out against expectation
stays in. All of it runs on two cores; larger numbers are options of the same commands. This page is written by `report.py`.

In short:

- HoME scores best of its family, at equal size, where tasks do have the groups that it is told, and on Census-Income, there
  by little; on the KuaiRand sample all are level; where tasks have nothing in common it comes last.
- What sets it apart is steadiness: hardly a finding over a tenfold range of learning rates, none from one to eight experts of
  each kind, where MMoE, PLE and AdaTT have some. Normalisation does most of that.
- The mask must be true: wrong groups cost all of the lead. Feature gates never paid.
- MMoE is ahead of one gate for all wherever tasks differ; ahead of one wide bottom only where they differ much.
- SMES, on logs of 100,000 samples, is behind the dense models at equal parameters and at equal products; its load balance keeps
  experts in use and costs AUC there.
- Finding one kind of event far back takes a search that is told what to look for; learned searches end at some 100 events here.
"""
SYNTHETIC = """\
Agrees: at correlation 0.5 MMoE ends below OMoE and far below Shared-Bottom, and its runs spread half as much as
Shared-Bottom's, of which one in five stays above 2.7; at 0.9 it still ends below OMoE. At correlation 1, the control, a gate
per task changes nothing against one gate.

Does not agree: at 0.9 Shared-Bottom is level with MMoE and spreads less, and at 1 it is ahead of both mixtures. One wide
layer of 126 units, with a learning rate of its own, is a stronger baseline for tasks that are nearly one than expected. MMoE
is behind it for the first 1,000 steps even at 0.5.

With other waves the order at 0.5 is the same, and MMoE is ahead from the beginning: the finding does not hang on them.
"""
PRODUCT = """\
`home-dist train` and the batched script agree. Started from a run's own weights, on its batches, the script has the same losses
as the run: for all 3,000 steps with Shared-Bottom, for at least 500 with the two mixtures; after that, rounding has grown. Mean
final losses over seeds lie within chance of those of the script with the same start, and their order is the same.

Does not agree: OMoE ends 0.12 below the script with its own start (z = -2.0). The start explains it: home_dist starts layers
before a ReLU sqrt(6) times as wide as torch.nn.Linear, and biases at 0 (He et al., ICCV 2015). With that start the script
ends lower, too: OMoE by 0.13 and MMoE by 0.07; Shared-Bottom does not. No setting changes the start.

One more difference, no fault either: a run minimises the sum of the tasks' losses, the script their mean. To Adam these differ
only where a gradient is as small as its epsilon. Yet a step's loss of one OMoE run was 0.2 % apart after 100 steps, and equal
to seven digits once the script minimised the sum. The replay does so.

Limits: one correlation; the intervals of twelve seeds are 0.12 (MMoE, OMoE) and 0.2 (Shared-Bottom) to each side. The replay
sees far smaller differences, for one seed per model.
"""
CENSUS = """\
Agrees: MMoE is above OMoE with both task groups and both settings of the data (by 0.0004 to 0.0018). HoME, not in that paper,
is the best of all in all four, above MMoE by 0.0004 to 0.0021 and above PLE by 0.0010 to 0.0023; seeds lie 0.0000 to 0.0008
apart.

Does not agree: MMoE is not above Shared-Bottom (-0.0011 to 0.0004), and a model of the main task alone is second or third in
all four: sharing brings little here.

Limits: two seeds, three learning rates, three epochs for all; nearly all took the largest rate, 0.01, and gaps shrink with it
(with 0.003 HoME led MMoE by 0.003 at most, and PLE by up to 0.010). Not the paper's whole data, so digits are not to be
compared.
"""
EDUCATION = """\
A class beside two binary tasks: not in the paper. MMoE as for the tables above, but for a tower of 32 units for the class.
Education is no feature here, so that income's AUC is not that of the tables above (with it, 0.9477).

MMoE learns education_level as well as logistic regression and LightGBM, which learn it alone: accuracy and macro AUC are level,
log loss is 0.001 and 0.006 above theirs. It needs the wider tower: through 8 units, 17 logits lose 0.018 of log loss. Income
and never married neither gain nor lose by it (-0.0007 and 0.0000, seeds 0.0011 apart).

Limits: two seeds; learning rate and epochs are those of the tables above, and were not chosen for education.
"""
PLANTED = """\
The generating process stands in `planted_log.py`. Worlds "groups" and "unrelated" are controls: in the first no feature
matters more to one group than to another, in the second there are no groups; a feature gate, and a mask, cannot help there by
what they are for.

Agrees: where tasks do have groups HoME scores best of the six models at equal size, by 0.006 to 0.011 in the first world and
by 0.002 to 0.005 in the second. That is not the benchmark's doing: where no two tasks have anything in common HoME comes
last, 0.005 to 0.014 behind. The groups must be true: with tasks in wrong or random ones HoME loses 0.008 to 0.009, all of its
lead. The failures: HoME's levels without any of its parts show 3.5 findings per run in the first world and PLE 2.5, HoME 0.5.

HoME is also the easiest to train: over a tenfold range of learning rates it stays within 0.007 of its best without a single
finding, where MMoE loses up to 0.036 and PLE 0.028 with 17 findings. That is normalisation, alone nearly as steady.

Does not agree, or not so: the mask brings nothing where groups are true (0.000), and costs 0.007 where there are none.
Neither feature gate nor self gate pays on top of the other parts, not even in the world made for the former (0.003 and 0.001
better without); alone, on HoME's levels, the self gate brings most (0.007), then normalisation (0.006) and mask (0.005). PLE
gains 0.006 by normalisation and 0.002 by self gates and loses 0.003 by feature gates, which at equal size leave it 6 hidden
units instead of 19. Sparse tasks' gates use fewer experts in effect than dense ones' in HoME (2.0 and 2.7), not more.

Seen on the way: with learning rates up to 0.003 and batches four times as large, where all models end far below what they can
reach, HoME led by 0.03 to 0.05, in the control without groups as well. Most of a lead as large as that is speed of training.

Limits: two seeds, two epochs; learning rates are chosen in the first world, with one seed; feature gates have rank 4.
"""
KUAIRAND = """\
No winner: by GAUC HoME is ahead of the other five by 0.000 to 0.006, where three seeds of one model lie 0.006 to 0.013 apart;
by AUC all but PLE are ahead of it, by 0.004 to 0.006. 166,914 impressions, and 37 to 76 positives in the test part for three
of the tasks, do not tell models of 570,000 parameters apart.

Of HoME's parts, mask and self gate count for most by GAUC (0.009 and 0.007 less without), and wrong groups cost 0.009: the
order that the paper tells, all of it within what seeds do. Normalisation does not pay here (0.006 more without). The three
failures are found in none of the models, but for one run of PLE: there is nothing to mend.

Limits: three seeds, one split. All took the larger of two learning rates by validation AUC; test AUC of the two is the same
up to 0.003.
"""
CAPACITY = """\
Agrees: HoME alone gains from more experts, from 0.876 with one of each kind to 0.882 with eight, step by step; the others
stay where they are, within what two seeds do (MMoE 0.864 with 2, 0.870 with 4, 0.867 with 32; CGC and PLE 0.866 to 0.872,
AdaTT 0.866 to 0.874). HoME alone has no finding at any number. PLE collapses with depth: 0.5, 3, 3 and 4.5 findings per run
with one to four layers, and AUC falls from 0.871 with two to 0.863 with four. AdaTT's findings grow with depth and with
number (2.5 with four layers, 3.5 with eight experts), without a loss in AUC. With eight of each kind HoME has half the
parameters of PLE and AdaTT.

Does not agree, or not so: more experts do not make MMoE, ML-MMoE or CGC collapse here. MMoE and ML-MMoE have most findings of
collapse with two experts (4 and 2), of which gates then use one; with 32 they use 6 and 9 in effect, and AUC hardly falls. No
two experts became the same anywhere.

Limits: two seeds, one world; a model's learning rate was chosen at one size.
"""
GROUPS = """\
Agrees: the planted groups come back, with an adjusted Rand index of 0.91 and 0.96 from MMoE in the two worlds. HoME was trained
with wrong groups, and its gradients tell the right ones all the same. Of the tasks that the command calls clear, none is in a
wrong group in any of the 15 runs. The control holds: where tasks have nothing in common it proposes nothing.

Does not agree, or not so: HoME's index is 0.865. Where it is not 1 the miss is always the same, the task of one positive in
1,000 stands alone: the command then says that it is too rare to tell, and leaves it where it is. Means over steps of
cosines on shared experts found the groups in none of nine trial runs, even when told their number (index at most 0.49), and
those of cosines on the features in two: without a positive sample all rare tasks pull alike. Sums of inner products over steps
tell, in standard errors.

Limits: what was summed, and the threshold of 4 standard errors, were chosen on the first of these logs; runs a fifth as long
gave up to 3.3 in the control, by what their initial values had made. Two groups of four tasks.
"""
GROUPS_KUAIRAND = """\
`home-dist groups` would move like and profile_enter to the group of watching: their gradients pull with those of the views,
surely and in all halves of the steps. Follow, comment and forward stay, as too rare to tell (42, 76 and 37 positives in the
test). Training with it changes nothing that is not chance: the intervals of both means cover 0, the two tasks that moved lose
(like 0.044 of GAUC, profile_enter 0.005 of AUC), and the means gain by the three rare tasks, which did not move.

Limits: one seed, of which the affinities may owe something to its initial values.
"""
SPARSE_KUAIRAND = """
Here the models lie closer together than their seeds. SMES is 0.0060 (equal parameters) and 0.0077 (equal products) in AUC
behind MMoE, the best one by AUC, and in GAUC between 0.0020 behind and 0.0052 ahead of it, with deviations of 0.007. No expert
is idle: a sample uses 9 of 16 or 32. On these 166,914 samples a pool is no gain, and it costs AUC.
"""
SPARSE = """\
Does not agree: on these logs SMES is behind the dense models. At equal parameters it loses 0.013 to the best of them where
tasks have groups and 0.013 beside one sparse task; where tasks have nothing in common it is level with HoME and 0.007 behind
MMoE, whose seeds lie 0.03 apart. At equal products, with twice the experts, it loses another 0.008 to 0.012, but for the world
without groups (0.003 behind MMoE). The sparse task loses most: 0.09 to 0.13 of its AUC in the first world.

More experts of the same width do not help: from 8 to 256 AUC falls step by step (0.849 to 0.810), each expert seeing fewer
samples.

The load balance does what it is for, and costs: without it 30 % of 32 experts are idle and one is crowded, and AUC is 0.021
better than with the default factor, level with the dense models. Experts that all tasks choose together (K_s = 10) are 0.014
better than a mix with own ones; own ones alone (K_a = 1) are 0.018 worse.

Routers are not free: a vector per expert and task. With 8 tasks and 192 features they alone take more products than MMoE from
45 experts on, so that a pool of 256 at equal products does not exist here.

Limits: 100,000 training samples, two epochs and three seeds; a pool is made for logs some thousand times as large, of which
each expert sees as much as a dense one does here. Learning rates were chosen in the first world, with one seed.
"""
SEQUENCES = """\
Agrees: SIM's hard search finds the purchase 10, 100 and 1,000 events back, as far as fewer than 50 newer events have its
category: at 10,000 there are 200, and it finds nothing. It is told the category, which all others must learn to compare. The
controls hold: nothing that reads 100 events knows of what is 1,000 back.

Learned search ends earlier: soft search at 100 events (0.75), TWIN at 100 with one seed of two; neither starts to learn among
1,200 events from 10,700 samples. DIN learns it among 12 events, and among 120 with one seed of two, although all are before
it: what three events say drowns in a sum over all. These are not ends of what the encoders can tell but of what they find
from so few samples: a run either sees it or stays at 0.5.

DIEN's auxiliary loss does harm here, where the next event cannot be known: with it DIEN learns nothing, without it 12 events
with one seed of two. With twice the samples and one seed, not in the table, it was 0.898 without the loss, and with it 0.503,
or 0.865 at a learning rate of 0.01.

Limits: two seeds, one learning rate, four epochs; half the samples at 1,000 events, a fifth at 10,000.
"""


@dataclass(frozen=True)
class Study:
    title: str
    command: str
    results: str
    """Name of the table, and of the picture where there is one."""
    said: str = ""


STUDIES = [
    Study(
        "MMoE on tasks of given correlation (Ma et al. 2018, section 3)",
        "python benchmarks/papers/mmoe_synthetic.py",
        "mmoe_synthetic",
        SYNTHETIC,
    ),
    Study("The same through home-dist train", "python benchmarks/papers/mmoe_product.py", "mmoe_product", PRODUCT),
    Study("Census-Income (Ma et al. 2018, section 6.2)", "python benchmarks/papers/census.py RAW", "census", CENSUS),
    Study(
        "Census-Income with the class of education",
        "python benchmarks/papers/census_education.py RAW",
        "census_education",
        EDUCATION,
    ),
    Study("HoME on generated logs", "python benchmarks/papers/home.py planted", "home_planted", PLANTED),
    Study("HoME on the KuaiRand-Pure sample", "python benchmarks/papers/home.py kuairand", "home_kuairand", KUAIRAND),
    Study("SMES on generated logs (Zhang et al. 2026)", "python benchmarks/papers/sparse.py planted", "sparse_planted", SPARSE),
    Study(
        "SMES on the KuaiRand-Pure sample", "python benchmarks/papers/sparse.py kuairand", "sparse_kuairand", SPARSE_KUAIRAND
    ),
    Study("Number of experts and depth", "python benchmarks/papers/capacity.py", "capacity", CAPACITY),
    Study(
        "Planted groups from gradients (Fifty et al. 2021)",
        "python benchmarks/papers/groups.py planted",
        "groups_planted",
        GROUPS,
    ),
    Study(
        "Groups from gradients on the KuaiRand-Pure sample",
        "python benchmarks/papers/groups.py kuairand",
        "groups_kuairand",
        GROUPS_KUAIRAND,
    ),
    Study("How far back histories are read", "python benchmarks/papers/sequences.py", "sequences", SEQUENCES),
]


def section(study: Study) -> str:
    parts = [f"## {study.title}", f"    {study.command}"]
    results = HERE / "results" / study.results
    if not results.with_suffix(".md").is_file():
        return "\n\n".join([*parts, "No full run yet."])
    parts += [study.said.strip(), results.with_suffix(".md").read_text().strip()]
    if results.with_suffix(".png").is_file():
        parts.append(f"![{study.title}](results/{study.results}.png)")
    return "\n\n".join(part for part in parts if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="what it does anyway, without writing")
    text = "\n".join([INTRODUCTION, *(section(study) + "\n" for study in STUDIES)])
    if not parser.parse_args().quick:
        (HERE / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
