"""The published rules of others, by which a fleet can be judged beside our own.

Each docstring gives the source and its figures, and what had to be assumed where the source is silent.
"""

from __future__ import annotations

from reports.policy import All, Policy, at_most, below

# No source tells the speed of a VM's link: an ordinary one is assumed.
LINK_BYTES_PER_S = 1e9 / 8


def classic() -> Policy:
    """Means of CPU, memory and disk space at most 10 % each.

    Source: VMstats (nnadarajah/VMstats), the push aggregator this report began as. It averaged over all time and
    truncated 10.9 % to 10 %; here the window is the one asked for, and limits are exact.
    """
    return Policy(
        name="classic",
        summary="mean CPU, memory and disk space are all at most 10%",
        source="VMstats, the push aggregator this report began as; it truncated 10.9 % to 10 %, this does not",
        idle_when=All(
            (at_most("cpu_busy.mean", 0.10), at_most("mem_used.mean", 0.10), at_most("disk_used.mean", 0.10))
        ),
    )


def p95() -> Policy:
    """CPU at most 5 % in 95 % of the minutes.

    Source: usual practice in right-sizing. A percentile forgives the odd burst that a maximum blames.
    """
    return Policy(
        name="p95",
        summary="CPU is at most 5% in 95% of the minutes",
        source="usual practice in right-sizing: a percentile forgives the odd burst that a maximum blames",
        idle_when=All((at_most("cpu_busy.p95", 0.05),)),
    )


def aws() -> Policy:
    """Peak CPU below 5 % and network traffic below 5 MB on every day, 14 days.

    Source: AWS Compute Optimizer, "Idle resources": EC2 instances. The peak is the highest moment within a minute
    where the agent measures it, else the busiest minute; MB are 10^6 bytes, received and sent together.
    """
    return Policy(
        name="aws",
        summary="peak CPU below 5% and network below 5 MB a day, 14 days",
        source="AWS Compute Optimizer, idle EC2 instances",
        idle_when=All((below("cpu_peak.max", 0.05, days=14), below("net_daily.max", 5e6, days=14))),
    )


def azure() -> Policy:
    """P95 of maximum CPU below 3 %, mean CPU of the last 3 days at most 2 %, outbound network below 2 %, 7 days.

    Source: Azure Advisor, "Shutdown recommendations" for virtual machines. Network is a share of the link; a link of
    1 Gbit/s is assumed, so 2 % are 2.5 MB/s of mean traffic.
    """
    return Policy(
        name="azure",
        summary="P95 of peak CPU below 3% in 7 days, mean of 3 days at most 2%, sent below 2% of 1 Gbit/s",
        source="Azure Advisor, shutdown recommendations for virtual machines",
        idle_when=All(
            (
                below("cpu_peak.p95", 0.03, days=7),
                at_most("cpu_busy.mean", 0.02, days=3),
                below("net_tx.mean", 0.02 * LINK_BYTES_PER_S, days=7),
            )
        ),
    )


def google() -> Policy:
    """CPU below 0.03 vCPU for 97 % of the time, received below 2000 and sent below 1000 B/s for 95 %, 14 days.

    Source: Google Cloud, idle VM recommendations (Recommender).
    """
    return Policy(
        name="google",
        summary="CPU below 0.03 vCPU for 97%, received below 2000 B/s and sent below 1000 B/s for 95%, 14 days",
        source="Google Cloud, idle VM recommendations",
        idle_when=All(
            (
                below("cpu_vcpus.p97", 0.03, days=14),
                below("net_rx.p95", 2000.0, days=14),
                below("net_tx.p95", 1000.0, days=14),
            )
        ),
    )


def optscale() -> Policy:
    """Mean CPU at most 5 % and mean network traffic at most 1000 B/s, 7 days.

    Source: OptScale (hystax/optscale), recommendation "abandoned instances": defaults of its options.
    """
    return Policy(
        name="optscale",
        summary="mean CPU at most 5% and mean network traffic at most 1000 B/s, 7 days",
        source="OptScale, abandoned instances",
        idle_when=All((at_most("cpu_busy.mean", 0.05, days=7), at_most("net_io.mean", 1000.0, days=7))),
    )


def bmc() -> Policy:
    """CPU below 5 %, disk below 100 KB/s and network below 200 KB/s for at least 95 % of the time; age 7 days or more.

    Source: BMC Helix Continuous Optimization, "Idle VMs". A P95 below the limit says the same; KB are 10^3 bytes.
    """
    return Policy(
        name="bmc",
        summary="CPU below 5%, disk below 100 KB/s, network below 200 KB/s for 95% of 7 days",
        source="BMC Helix Continuous Optimization, idle VMs",
        idle_when=All(
            (
                below("cpu_busy.p95", 0.05, days=7),
                below("disk_io.p95", 100e3, days=7),
                below("net_io.p95", 200e3, days=7),
            )
        ),
        min_age_days=7.0,
    )


PUBLISHED = (classic, p95, aws, azure, google, optscale, bmc)
