"""The published tables that `simulate --mode reference` has to reproduce, and how near.

CloudSim 3.0.3's power experiments (Beloglazov, Buyya: Concurrency and Computation 24(13), 2012) on two PlanetLab days,
as that program prints them. RS draws lots there without a seed, so that it has no figures to reproduce.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# By how much a figure may differ, as a share of it. Without the published order of sums it differs by up to so much.
BANDS: Mapping[str, float] = {
    "energy_kwh": 0.015,
    "migrations": 0.035,
    "slatah_pct": 0.03,
    "shutdowns": 0.03,
    "pdm_pct": 0.07,
}
# Where nothing migrates, nothing hangs on rounding.
STILL_BAND = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One row. Figures are texts: they have the digits that were printed."""

    day: str
    drop_idle: bool
    policy: str
    figures: Mapping[str, str]


_FIGURES = (
    "energy_kwh",
    "migrations",
    "slatah_pct",
    "slatah_tolerant_pct",
    "pdm_pct",
    "slav_e5",
    "esv_e3",
    "overall_sla_violation_pct",
    "shutdowns",
    "mean_time_to_shutdown_s",
    "mean_active_hosts",
)
_ROWS = """
20110303 dropped DVFS 802.754 0 0.0000 0.0000 0.00000 0.0000 0.0000 0.0000 455 2864.3 357.35
20110303 dropped THR-MMT 192.623 26711 4.9133 4.8760 0.06464 3.1758 6.1173 0.0710 5885 949.6 72.40
20110303 dropped IQR-MMT 189.980 26282 4.8226 4.7878 0.06235 3.0070 5.7126 0.0706 5868 951.9 71.25
20110303 dropped MAD-MMT 185.792 26556 5.0488 5.0172 0.06619 3.3416 6.2084 0.0789 5828 966.8 69.41
20110303 dropped LR-MMT 163.477 27859 5.8579 5.8247 0.07927 4.6439 7.5917 0.1472 5053 1028.9 59.36
20110303 dropped LRR-MMT 163.477 27859 5.8579 5.8247 0.07927 4.6439 7.5917 0.1472 5053 1028.9 59.36
20110303 dropped THR-MC 183.476 23967 6.8382 6.7885 0.10193 6.9704 12.7889 0.1117 5576 982.9 68.31
20110303 dropped IQR-MC 179.248 23596 6.9021 6.8562 0.10311 7.1170 12.7571 0.1176 5511 996.0 66.46
20110303 dropped MAD-MC 175.293 23861 7.0079 6.9555 0.10532 7.3805 12.9374 0.1282 5460 972.5 64.74
20110303 dropped LR-MC 151.067 23380 7.0059 6.9554 0.09753 6.8327 10.3219 0.1633 4078 1161.1 53.79
20110303 dropped LRR-MC 151.067 23380 7.0059 6.9554 0.09753 6.8327 10.3219 0.1633 4078 1161.1 53.79
20110303 dropped THR-MU 207.794 30653 7.3824 7.3412 0.06696 4.9436 10.2725 0.0712 6523 971.3 79.16
20110303 dropped IQR-MU 201.542 29410 7.4298 7.3869 0.06113 4.5418 9.1536 0.0685 6282 929.2 76.38
20110303 dropped MAD-MU 200.136 29611 7.4771 7.4407 0.06485 4.8492 9.7049 0.0767 6281 978.6 75.80
20110303 dropped LR-MU 175.600 30166 8.1518 8.1116 0.07517 6.1278 10.7605 0.1841 5632 995.7 64.79
20110303 dropped LRR-MU 175.600 30166 8.1518 8.1116 0.07517 6.1278 10.7605 0.1841 5632 995.7 64.79
20110409 dropped DVFS 935.015 0 0.0000 0.0000 0.00000 0.0000 0.0000 0.0000 409 6349.2 418.37
20110409 dropped THR-MMT 209.320 29377 4.8661 4.8304 0.06201 3.0173 6.3158 0.0685 6293 980.0 78.93
20110409 dropped IQR-MMT 208.129 29002 4.7991 4.7649 0.05945 2.8531 5.9382 0.0672 6267 964.7 78.43
20110409 dropped MAD-MMT 202.550 28848 4.9119 4.8784 0.06255 3.0724 6.2231 0.0756 6203 971.9 75.95
20110409 dropped LR-MMT 179.891 31556 5.8629 5.8345 0.07616 4.4655 8.0330 0.1418 5563 1027.2 65.78
20110409 dropped LRR-MMT 179.891 31556 5.8629 5.8345 0.07616 4.4655 8.0330 0.1418 5563 1027.2 65.78
20110409 dropped IQR-MC 196.888 25813 6.8367 6.7877 0.09594 6.5594 12.9147 0.1092 5854 1037.9 73.39
20110409 dropped THR-MU 224.574 33049 7.3611 7.3213 0.06502 4.7866 10.7494 0.0707 6938 987.1 85.72
20110303 kept DVFS 927.990 0 0.0000 0.0000 0.00000 0.0000 0.0000 0.0000 571 4099.7 411.79
20110303 kept THR-MMT 253.756 41634 5.3588 5.3298 0.06302 3.3769 8.5690 0.0731 7763 976.5 97.12
20110303 kept MAD-MMT 249.679 41767 5.3711 5.3437 0.06415 3.4455 8.6027 0.0798 7750 963.2 95.34
20110303 kept LR-MMT 221.382 44405 6.7688 6.7396 0.07307 4.9457 10.9489 0.2326 7079 995.9 82.72
20110303 kept IQR-MC 243.676 38463 7.0867 7.0482 0.09047 6.4110 15.6221 0.1048 7331 1010.3 92.64
20110303 kept THR-MU 290.463 53403 7.9069 7.8747 0.06304 4.9842 14.4773 0.0697 9284 928.5 113.58
20110409 kept DVFS 1191.297 0 0.0000 0.0000 0.00000 0.0000 0.0000 0.0000 687 7711.4 530.30
20110409 kept THR-MMT 302.063 50817 5.3644 5.3382 0.05794 3.1080 9.3881 0.0667 8960 972.0 115.90
20110409 kept MAD-MMT 298.403 50428 5.3832 5.3575 0.05904 3.1783 9.4842 0.0721 8876 983.1 114.31
20110409 kept LR-MMT 265.307 55191 7.0691 7.0416 0.07135 5.0441 13.3823 0.2641 8215 1015.0 99.60
20110409 kept THR-MU 350.199 66811 7.9469 7.9163 0.06116 4.8603 17.0206 0.0670 10856 978.5 137.53
"""


def published() -> tuple[Published, ...]:
    """Every row but those of NPA, which is no run, and of RS."""
    found = []
    for line in _ROWS.strip().splitlines():
        day, idle, policy, *figures = line.split()
        found.append(
            Published(
                day=day,
                drop_idle=idle == "dropped",
                policy=policy,
                figures=dict(zip(_FIGURES, figures, strict=True)),
            )
        )
    return tuple(found)
