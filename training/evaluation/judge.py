"""What was measured, held against the references and the models against each other. Pure but for a progress bar."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import permutations

from models.spec import ModelSpec, Task
from scoring.bootstrap import compare, interval, resampled
from scoring.metrics import Floats, Metric, agreement, copied_whole, copied_words, length_ratio, metrics
from training.evaluation import bias, examples
from training.evaluation.floors import FLOORS
from training.evaluation.measured import Measured
from training.evaluation.plan import Plan
from training.evaluation.report import Compared, Findings, Floor, Report, Scored, Speed
from training.evaluation.trial import Round
from training.progress import progress

SHOWN: Mapping[Task, tuple[str, ...]] = {
    Task.TRANSLATION: ("bleu", "chrf"),
    Task.SUMMARIZATION: ("rouge1", "rouge2", "rougeL"),
    Task.GENERATION: ("rouge1", "rougeL", "chrf"),
}


def judge(plan: Plan, measured: Mapping[str, Measured], data: str) -> Report:
    """The report on items that come from `data`."""
    floors = _floors(plan)
    outputs = {name: each.outputs for name, each in measured.items()}
    found = _metrics(plan, {**outputs, **floors})
    samples = {
        name: {each: resampled(metric, plan.samples, plan.seed) for each, metric in of_one.items()}
        for name, of_one in progress(list(found.items()), len(found), "resampling")
    }
    return Report(
        data=data,
        items=len(plan.items),
        machine=plan.machine,
        rounds=plan.rounds,
        samples=plan.samples,
        baseline=plan.baseline,
        shown=SHOWN[plan.specs[0].task],
        findings=[
            _findings(plan, place, measured, found[spec.name], samples[spec.name])
            for place, spec in enumerate(plan.specs)
        ],
        compared=[
            Compared(
                one,
                other,
                {
                    name: compare(metric.score, samples[one][name], found[other][name].score, samples[other][name])
                    for name, metric in found[one].items()
                },
            )
            for one, other in permutations(found, 2)
            if found[one] and one in measured
        ],
        floors=[_floor(plan, name, of_one, found[name], samples[name]) for name, of_one in floors.items()],
        examples=examples.drawn(plan.items, outputs, plan.examples, plan.seed),
        resumed=[name for name, each in measured.items() if each.is_resumed],
    )


def _floors(plan: Plan) -> dict[str, list[str]]:
    if not plan.items[0].references:
        return {}
    makers = FLOORS.get(plan.specs[0].task, {})
    return {name: [make(item.source) for item in plan.items] for name, make in makers.items()}


def _metrics(plan: Plan, outputs: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Metric]]:
    if not plan.items[0].references:
        return {name: {} for name in outputs}
    references = [item.references for item in plan.items]
    return {name: metrics(each, references, plan.tokenizer) for name, each in outputs.items()}


def _scored(found: Mapping[str, Metric], samples: Mapping[str, Floats]) -> dict[str, Scored]:
    return {name: Scored(metric.score, interval(samples[name]), metric.signature) for name, metric in found.items()}


def _floor(
    plan: Plan, name: str, outputs: Sequence[str], found: Mapping[str, Metric], samples: Mapping[str, Floats]
) -> Floor:
    sources, references = [item.source for item in plan.items], [item.references for item in plan.items]
    return Floor(
        name=name,
        scores=_scored(found, samples),
        length_ratio=length_ratio(outputs, references),
        copied_whole=copied_whole(outputs, sources),
        copied_words=copied_words(outputs, sources),
    )


def _findings(
    plan: Plan, place: int, measured: Mapping[str, Measured], found: Mapping[str, Metric], samples: Mapping[str, Floats]
) -> Findings:
    spec: ModelSpec = plan.specs[place]
    mine = measured[spec.name]
    assert mine.loaded is not None
    sources, references = [item.source for item in plan.items], [item.references for item in plan.items]
    twin = plan.twins.get(spec.name)
    return Findings(
        name=spec.name,
        speed=_speed(mine.rounds, len(plan.items)),
        load_seconds=mine.loaded.seconds,
        shipped_bytes=mine.loaded.shipped_bytes,
        engine_bytes=mine.loaded.engine_bytes,
        peak_bytes=mine.peak_bytes,
        cut=mine.rounds[0].cut,
        unfinished=mine.rounds[0].unfinished,
        copied_whole=copied_whole(mine.outputs, sources),
        copied_words=copied_words(mine.outputs, sources),
        recipe=mine.loaded.recipe,
        params=plan.params[place],
        scores=_scored(found, samples),
        length_ratio=length_ratio(mine.outputs, references) if found else None,
        twin=twin,
        agreement=agreement(mine.outputs, measured[twin].outputs) if twin else None,
        perplexity=mine.perplexity if plan.has_perplexity else None,
        baseline=mine.baseline if plan.counted else None,
        bias=_bias(plan, place, mine),
    )


def _bias(plan: Plan, place: int, mine: Measured) -> bias.Bias | None:
    if not plan.probes or mine.probed is None:
        return None
    return bias.judge(plan.probes[place], mine.probed.outputs, mine.probed.nats, plan.samples, plan.seed)


def _speed(rounds: Sequence[Round], items: int) -> Speed:
    seconds = [each.seconds for each in rounds]
    middle = statistics.median(seconds)
    return Speed(
        seconds=seconds,
        items_per_second=items / middle,
        input_tokens_per_second=rounds[0].input_tokens / middle,
        output_tokens_per_second=statistics.median(each.output_tokens / each.seconds for each in rounds),
    )
