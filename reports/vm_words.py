"""One VM's verdict as a paragraph that its owner understands: why, what is proposed, how sure that is. Pure."""

from __future__ import annotations

from reports.explain import AWAKE_RATIO
from reports.judgement import Judgement
from reports.report import RECLAIMABLE
from reports.savings_words import known_savings, savings_words, unknown_words
from reports.verdicts import Settings, Verdict
from reports.words import count_words, duration_words, gib, listed_words, number, printable, vcpu_words

_PROPOSED = {
    Verdict.IDLE: "Proposed: give it back. That frees",
    Verdict.SCHEDULED: "Proposed: switch it off while nobody needs it. Averaged over the week, that frees",
    Verdict.OVERSIZED: "Proposed: the smaller size. That frees",
}


def vm_title(judgement: Judgement) -> str:
    """`web (vm-idle), owner ann`: what people call it, the id, and whose it is."""
    vm = judgement.vm
    name = vm.name or vm.hostname
    title = f"{printable(name)} ({printable(vm.vm_id)})" if name and name != vm.vm_id else printable(vm.vm_id)
    return f"{title}, owner {printable(vm.owner)}" if vm.owner else title


def vm_paragraph(judgement: Judgement, settings: Settings) -> str:
    """Sentences in one line, the reason first."""
    sentences = [f"{printable(judgement.reason)}."]
    if judgement.verdict is Verdict.OVERSIZED:
        sentences.append(_used(judgement))
    elif judgement.verdict is not Verdict.IDLE:
        # An idle one frees all it has, an oversized one has told its size.
        sentences.append(_has(judgement))
    sentences.append(_awake(judgement, settings.window_days))
    if judgement.verdict in RECLAIMABLE:
        sentences += [_proposed(judgement, settings), _confidence(judgement)]
    return " ".join(sentence for sentence in sentences if sentence)


def _used(judgement: Judgement) -> str:
    cpu_ratio = judgement.statistics.get("cpu_busy_p95_ratio")
    mem_ratio = judgement.statistics.get("mem_used_max_ratio")
    if cpu_ratio is None or mem_ratio is None:
        return ""
    return (
        f"It used {number(cpu_ratio, 'ratio')} of its CPU or less for 95% of the time, and never more than "
        f"{number(mem_ratio, 'ratio')} of its memory."
    )


def _has(judgement: Judgement) -> str:
    size, disk_bytes = judgement.size, judgement.disk_total_bytes
    if size is None:
        return ""
    parts = [f"{vcpu_words(size.vcpus)} vCPU", f"{gib(size.mem_bytes)} of memory"]
    return f"It has {listed_words(parts + ([] if disk_bytes is None else [f'{gib(disk_bytes)} of disk']))}."


def _awake(judgement: Judgement, days: int) -> str:
    awake_s = next((line.awake_s for line in judgement.windows if line.days == days), None)
    # Of a VM that cannot be judged the samples do not tell.
    if awake_s is None or judgement.verdict in {Verdict.INSUFFICIENT, Verdict.EXCLUDED}:
        return ""
    above, length = f"CPU above {number(AWAKE_RATIO, 'ratio')}", count_words(days, "day")
    if awake_s == 0:
        return f"It was never awake ({above}) in {length}."
    hours = f"{awake_s / 3600:,.1f} hours".replace(".0 ", " ") if awake_s >= 7200 else duration_words(awake_s)
    return f"It was awake ({above}) for {hours} in {length}."


def _proposed(judgement: Judgement, settings: Settings) -> str:
    savings = known_savings(judgement)
    words = f"{_PROPOSED[judgement.verdict]} {savings_words(savings, settings.prices.currency)}"
    unknown = unknown_words(savings)
    if not unknown:
        return f"{words}."
    if savings_words(savings, None) == "nothing":
        return f"{_PROPOSED[judgement.verdict]} an amount that is not known, as its size is not."
    return f"{words}; how much {unknown} it has is not known."


def _confidence(judgement: Judgement) -> str:
    ratio = judgement.confidence_ratio
    return f"Confidence: {number(ratio, 'ratio')}." if ratio else ""
