"""Hostile overrides of the command line."""

import shlex
from pathlib import Path

from scripts.drill.cases import Suite
from scripts.drill.inputs.hostile import ACCEPTED, EITHER, REFUSED, Hostile, cases
from scripts.drill.tiny_runs import TEXT, TEXTURES

KIND = "hostile override"
NUM_SAMPLED = 12
LONG = "a" * 300
# A line is what a person types after `prunetune`; a line without a command belongs to `prunetune run`. Every line is
# given behind the words of a small run, so that it wins.
REFUSED_LINES = r"""
ratio=0
ratio=1.5
ratio=-0.1
ratio=inf
ratio=nan
ratio=1e309
ratio={a:1}
ratio=
ratio=null
ratio=0.1,0.2
ratio='"0,5"'
ratio=50%
ratio=[0.1]
seed=1.5
seed=abc
seed=[1]
seed=null
seed=nan
seed=1e400
results_dir=null
results_dir=[a]
results_dir=
"['results_dir=nowhere/x"
--config-name nosuch
--config-dir nowhere
-m ratio=0.1,2
until=null
until=1
until=scores
until=[prune]
device=xyz
device=meta
device=null
device=cuda:99
device=1
precision=fp8
precision=null
precision=16
batch_size=0
batch_size=-1
batch_size=1.5
batch_size=abc
batch_size=null
batch_size=1e23
batch_size=nan
batch_size=100000000000000000000000
wandb=null
wandb=1
wandb=yes
tag=null
tag=[a]
tag={a:1}
finetune.epochs=1.5
finetune.epochs=0
finetune.epochs=-1
finetune.epochs=null
finetune.epochs=1e3
finetune.learning_rate=inf
finetune.learning_rate=1e309
finetune.learning_rate=1e30
finetune.learning_rate=null
finetune.learning_rate=-0.1
finetune.learning_rate=nan
finetune.momentum=2
finetune.momentum=-0.5
finetune.momentum=nan
finetune.momentum=inf
finetune.weight_decay=inf
finetune.weight_decay=-1
finetune.weight_decay=nan
finetune.weight_decay=1e30
finetune.milestones=[-1]
finetune.milestones=[1.5]
finetune.milestones=[nan]
finetune.milestones=[null]
finetune.milestones=[a]
finetune.milestones=5
finetune.milestones=null
finetune.views=1.5
finetune.views=-1
finetune.views=1e9
finetune.batch_size=-1
finetune.batch_size=0
finetune.batch_size=1e23
finetune.batch_size=100000000000000000000000
finetune.evaluate_every=-1
finetune.evaluate_every=0
finetune.decay=nan
finetune.decay=-1
finetune.decay=inf
finetune.decay=null
finetune.trained=foo
finetune.trained=logistic_regression
finetune=logistic_regression finetune.epochs=5
finetune=logistic_regression finetune.trained=head
finetune=logistic_regression sampler=rs2
dataset.subpool=0.8
dataset.subpool=0.8,-1
dataset.subpool=2,3
dataset.subpool=a,b
dataset.subpool={a:1,b:2}
finetune.trained=null
finetune.name=null
sampler=flexrand sampler.gamma=2
sampler=flexrand sampler.gamma=-0.1
sampler=flexrand sampler.gamma=nan
sampler=flexrand sampler.gamma=abc
sampler=flexrand sampler.gamma=null
sampler=flexrand sampler.min_per_class=1.5
sampler=flexrand sampler.min_per_class=-1
sampler=flexrand sampler.min_per_class=1e23
sampler=flexrand sampler.budgets=foo
sampler=foo
scorer.levels=-1
scorer.levels=0
scorer.levels=abc
scorer.levels=1.5
scorer.levels=1e23
scorer.levels=null
scorer.masking=foo
+foo=1
ratioo=0.1
+finetune.foo=1
+scorer.foo=1
+dataset.foo=1
+backbone.foo=1
scorer=null
scorer=5
scorer=1.5
scorer=true
scorer={a:1}
scorer=../scorer/dlc
scorer=/etc/passwd
scorer=dlc,herding
scorer=
sampler=null
sampler=5
sampler=../scorer/dlc
finetune=null
finetune=5
finetune=../scorer/dlc
dataset=null
dataset=5
dataset=/dev/zero
dataset=[dtd]
backbone=null
backbone=5
backbone=../backbone/micro
proxy=null
proxy=5
proxy=../proxy/full
experiment=nosuch
experiment=5
experiment=../experiment/demo
sweep=nosuch
sweep=5
method=nosuch
method=5
backbone@scoring_backbone=5
=
a=b=c
~ratio
~scorer
~finetune
dataset.num_pool=0
dataset.num_pool=nan
dataset.num_pool=-1
dataset.num_pool=1e23
dataset.num_pool=null
dataset.num_pool=1000000000
dataset.num_test=0
dataset.num_test=1.5
dataset.size=0
dataset.size=1.5
dataset.size=1000000
dataset.seed=null
dataset.seed=a
backbone.input_size=-1
backbone.input_size=0
backbone.input_size=1.5
backbone.input_size=1e23
backbone.input_size=1000000
backbone.mean=[a]
backbone.mean=[0.5]
backbone.mean=[nan,nan,nan]
backbone.mean=5
backbone.std=[0,0,0]
backbone.std=[-1,1,1]
backbone.std=[inf,1,1]
backbone.model=nosuch
backbone.model=null
backbone.model=5
backbone.normalization=foo
backbone.normalization=null
backbone.pretrained=abc
backbone.pretrained=null
backbone.mask_modules=foo
backbone.model_args={foo:1}
backbone.model_args=5
backbone=timm
backbone=timm backbone.model=hf-hub:x/y
backbone=timm backbone.model=../x
backbone=timm backbone.model=/etc/passwd
pipeline=prunetune.nope.run
pipeline=""
pipeline=null
pipeline=5
pipeline=os.system
pipeline=os.getcwd
pipeline=builtins.print
pipeline=subprocess.run
pipeline=prunetune.api.prune
pipeline=prunetune
pipeline=prunetune.doors
pipeline=prunetune.doors.instruct
pipeline=prunetune.doors.Path
dataset._target_=prunetune.base.store.Store
dataset._target_=prunetune.nope.X
dataset._target_=os.system
dataset._target_=null
dataset._target_=5
dataset._target_=prunetune.scorers.Herding
dataset._target_=prunetune.data.readers
scorer._target_=os.system
scorer._target_=builtins.eval
scorer._target_=builtins.dict
scorer._target_=prunetune.samplers.TopK
scorer._target_=prunetune.scorers.Scorer
scorer._target_=prunetune.scorers.base.Scorer
scorer._target_=null
scorer._target_=5
scorer._target_=""
+scorer._partial_=true
+scorer._args_=[1]
+scorer._convert_=none
+scorer._recursive_=5
sampler=flexrand sampler._target_=prunetune.scorers.Herding
sampler=flexrand sampler._target_=os.mkdir
backbone._target_=prunetune.scorers.Herding
backbone._target_=subprocess.Popen
backbone._target_=prunetune.networks.backbone.Network
+finetune._target_=os.system
+backbone.model_args={_target_:os.system}
scorer=from_file
scorer=from_file scorer.path=5
scorer=from_file scorer.path=nowhere.csv
method=dlc gamma_search.repeats=0
method=dlc gamma_search.repeats=-1
method=dlc gamma_search.held_out=0
method=dlc gamma_search.held_out=1
method=dlc gamma_search.held_out=nan
method=dlc gamma_search.grid=[nan]
method=dlc gamma_search.grid=[]
method=dlc gamma_search.grid=[a]
method=dlc gamma_search.grid=[-1]
method=dlc gamma_search.grid=[2]
method=dlc gamma_search.split=foo
method=dlc gamma_search.views=-1
images.short_side=0
images.short_side=-5
images.short_side=abc
images.short_side=1.5
images.short_side=1e23
scorer=el2n proxy.epochs=0
scorer=el2n proxy.epochs=1.5
scorer=el2n proxy.momentum=2
scorer=el2n proxy.decay=nan
scorer=el2n proxy.milestones=[-1]
scorer=el2n proxy.learning_rate=1e30
scorer=el2n proxy.learning_rate=nan
scorer=el2n proxy.batch_size=0
scorer=el2n proxy.batch_size=1e23
scorer=el2n proxy.initial=foo
scorer=el2n proxy.record=null
scorer=el2n scorer.epoch=0
scorer=el2n scorer.repeats=0 proxy=linear_probe
scorer=el2n scorer.repeats=-1 proxy=linear_probe
hydra/launcher=nosuch
hydra.mode=foo
hydra.run.dir=
hydra.run.dir=null
hydra.sweep.subdir=null
hydra.job.config.override_dirname.kv_sep=[]
grid ratios=[]
grid ratios=[nan]
grid ratios=[null]
grid ratios=[2]
grid ratios=0.1
grid ratios=[0.1,0.1]
grid methods=[]
grid methods=[null]
grid methods=[5]
grid methods=[""]
grid methods=dlc
grid methods=[dlc,dlc]
grid "methods=['dlc; rm -rf /']"
grid "methods=['random \"']"
grid "methods=['dlc +a=1']"
grid "methods=['dlc ratio=0.5']"
grid "methods=['dlc seed=2']"
grid "methods=['dlc dataset=digits']"
grid "methods=['dlc finetune.momentum=2']"
grid seeds=[1.5]
grid seeds=[]
grid seeds=[null]
grid seeds=[1,1]
grid seeds=5
grid pipeline=os.system
grid pipeline=prunetune.doors.instruct
instruct ratio=0
instruct ratio=nan
instruct text_scorer=null
instruct text_scorer=5
instruct text_scorer=../sampler/auto
instruct text_scorer._target_=os.system
instruct llm=null
instruct llm._target_=os.system
instruct llm=local llm.model=/dev/null
instruct llm=local llm.model=nowhere
instruct llm.layers=0
instruct llm.layers=-1
instruct llm.width=0
instruct llm.width=7
instruct llm.width=1e23
instruct corpus=null
instruct corpus=5
instruct corpus.limit=0
instruct corpus.limit=-1
instruct corpus.limit=1.5
instruct corpus=local corpus.path=nowhere.jsonl
instruct corpus=local corpus.path=/dev/zero
instruct corpus=local corpus.path=/dev/null
instruct sft=null
instruct sft=5
instruct sft.learning_rate=1e30
instruct sft.learning_rate=nan
instruct sft.momentum=2
instruct sft.batch_size=0
instruct sft.batch_size=1e23
instruct sft.epochs=-1
instruct sft.lora_r=0
instruct sft.lora_dropout=2
instruct sft.lora_targets=[]
instruct sft.lora_targets=[nosuch]
instruct sft.optimizer=foo
instruct sft.checkpoint_every=0
instruct max_tokens=0
instruct max_tokens=-1
instruct max_tokens=1e23
instruct held_out=1
instruct held_out=nan
instruct held_out=-0.1
instruct strata=foo
instruct evaluation.tasks=[]
instruct evaluation.tasks=[nosuch]
instruct evaluation.tasks=[null]
instruct evaluation.tasks_folder=nowhere
instruct evaluation.num_fewshot=[]
instruct evaluation.num_fewshot=[-1]
instruct evaluation.num_fewshot=[1.5]
instruct evaluation.num_fewshot=[1000]
instruct evaluation.limit=0
instruct evaluation.limit=-1
instruct evaluation.batch_size=0
instruct evaluation.batch_size=foo
instruct text_scorer=s2l trajectory.checkpoints=0
instruct text_scorer=s2l trajectory.checkpoints=1000
instruct pipeline=os.system
instruct pipeline=prunetune.doors.grid
instruct until=scores
"""
ACCEPTED_LINES = """
ratio=1
ratio=0.5
--cfg job
--help
--info config
-m ratio=0.1,0.5
grid --cfg job
instruct --cfg job
sampler=flexrand sampler.gamma=auto
batch_size=1000000000
finetune.evaluate_every=1000000
instruct until=score
"""
EITHER_LINES = r"""
method=null
scorer=el2n scorer.epoch=99 proxy=linear_probe
grid "methods=['dlc results_dir=elsewhere']"
finetune.nesterov=7
scorer=[dlc]
method=[dlc]
scorer=dlc.yaml
seed=-1
seed=true
seed=99999999999999999999
seed=1e3
ratio=1e-9
ratio=0.9999999999999999
tag=/abs/x
tag=..
tag=.
tag=a/b
tag=../../../../../../../../../a
tag=""
tag="'a b'"
tag='"\ud83d\ude00"'
tag='"😀"'
tag='"*"'
tag=~
tag='"a\u202eb"'
tag='"a\tb"'
results_dir=~/drillhome
results_dir="'a b'"
results_dir=.
hydra.output_subdir=null
hydra/job_logging=disabled
hydra/hydra_logging=disabled
hydra.job.chdir=true
hydra.verbose=true
device=cuda
finetune.momentum=1
finetune.milestones=[0]
finetune.milestones=[2,1]
finetune.milestones=[1000000]
finetune.decay=0
finetune.decay=2
finetune.batch_size=1000000000
finetune.learning_rate=0
sampler=flexrand sampler.min_per_class=1000000
dataset.seed=-1
dataset.size=1
dataset.size=2
backbone.input_size=1
images.short_side=1
grid seeds=[-1] methods=[random]
instruct max_tokens=1
"""
COMMANDS = ("run", "grid", "instruct")


def words_of(line: str) -> list[str]:
    """Return the command line of a line above: its command, the flags, a small run, and its overrides."""
    words = shlex.split(line)
    command = words.pop(0) if words[0] in COMMANDS else "run"
    small = {
        "run": TEXTURES,
        "grid": [*TEXTURES, "methods=[random]", "ratios=[0.1]", "seeds=[0]"],
        "instruct": TEXT,
    }[command]
    end = 0  # Hydra reads flags, and their values, before the overrides only.
    while end < len(words) and words[end].startswith("-"):
        end += 2 if words[end] in ("--config-name", "--config-dir", "--cfg", "--info") else 1
    return [command, *words[:end], *small, *words[end:]]


def inputs() -> list[Hostile]:
    """Return all overrides."""
    lines = {REFUSED: REFUSED_LINES, ACCEPTED: ACCEPTED_LINES, EITHER: EITHER_LINES}
    return [
        Hostile(line, expected, lambda folder, line=line: words_of(line))
        for expected, text in lines.items()
        for line in text.strip().splitlines()
    ]


def prepare(shared: Path) -> None:
    """Nothing is shared."""


SUITE = Suite("overrides", cases(KIND, inputs(), NUM_SAMPLED), prepare, needs_text=True)
