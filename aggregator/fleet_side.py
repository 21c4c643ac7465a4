"""All that an aggregator has of the fleet database, and how much of it there is while the database is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from aggregator.catalogue import Catalogue
from aggregator.config import AggregatorConfig
from aggregator.fleet_db import FILE_NAME, migrate, open_fleet, reading
from aggregator.fleet_errors import AWAY
from aggregator.fleet_keys import load_keys, missing_keys
from aggregator.fleet_link import FleetLink, in_daemon_thread
from aggregator.fleet_place import note_place
from aggregator.home_counts import HomeCounts
from aggregator.kept import count_homes
from aggregator.key_camps import keys_differ
from aggregator.key_marks import mark_keys, parse_marks
from aggregator.key_memory import JUDGED_FILE_NAME, KeyMemory
from aggregator.node_doubts import NodeDoubts
from aggregator.node_name import NODE_FILE_NAME, STARTS_FILE_NAME, load_or_create_name, note_start
from aggregator.node_problems import do_keys_differ
from aggregator.node_row import Node, NodeTable
from aggregator.nodes import Nodes, Told
from aggregator.own_node import Drain, OwnNode, admin_url
from aggregator.problems import Problem, Refused
from aggregator.revocation_cache import CACHE_FILE_NAME, RevocationCache
from aggregator.summaries import SummaryWriter
from aggregator.tokens import KEY_FILE_NAME, Revocations, TokenKeys

Enroll = Callable[[bytes, str], Deferred[bytes]]

_RETRY_AFTER_S = 30


class FleetSide:
    """The fleet database as one aggregator has it.

    Args:
        config: settings.
        reactor, clock: as those of the service.
        not_ready, vms, owed: as `OwnNode` takes them; not called before `introduce`.
        keys: of VMs' tokens, as they are now; not called before `introduce`.
        on_open: told of all VMs that ever had a summary, where the database answers only after the start.
        on_new_row: told that a fleet that has other aggregators did not know this one.
    Attributes:
        engine: of the database; connects when it is used.
        catalogue, writer: on that engine.
        me: what this aggregator says of itself.
        link: says it.
        doubts: what it learns of itself by looking at the others.
        admin_token: that of the fleet.
        revocation_cache: of the data directory.
        known_vms: of which this node is the home; none while the database is away.
        last_known: while it is away, revocations as an earlier run last knew them; else None.

    Construction asks the database, and makes the keys of a first aggregator; it blocks. Raises: ConfigError;
    NodeNameTakenError; what the database raises when it does not answer and no earlier run left its revocations or
    its keys.
    """

    _log = Logger()

    def __init__(
        self,
        config: AggregatorConfig,
        *,
        reactor: Any,
        clock: Callable[[], float],
        not_ready: Callable[[], str | None],
        vms: Callable[[], int],
        owed: Callable[[], int],
        keys: Callable[[], TokenKeys],
        on_open: Callable[[Sequence[str]], object],
        on_new_row: Callable[[], object],
    ) -> None:
        self._config = config
        self._clock = clock
        self._on_new_row = on_new_row
        data_dir = config.data_dir
        name = load_or_create_name(data_dir / NODE_FILE_NAME, config.node_name)
        self.engine = open_fleet(config.fleet_url, data_dir)
        self.catalogue = Catalogue(self.engine, check=config.enrolment_check)
        self.writer = SummaryWriter(self.engine, name)
        started_s = clock()
        self.me = OwnNode(
            name,
            data_dir=data_dir,
            started_s=started_s,
            clock=clock,
            not_ready=not_ready,
            vms=vms,
            owed=owed,
            key_marks=lambda: mark_keys(keys(), self.admin_token),
        )
        self.doubts = NodeDoubts()
        self._memory = KeyMemory(data_dir / JUDGED_FILE_NAME)
        self._homes = HomeCounts(
            self._count_homes,
            in_thread=lambda work: in_daemon_thread(reactor, work),
            seconds=reactor.seconds,
            on_counted=self._look,
        )
        self._nodes = Nodes(self.engine)
        self._found: NodeTable | None = None
        self._seen: tuple[Node, NodeTable] | None = None
        self.link = FleetLink(
            self._nodes,
            self.me,
            # A fleet database within the data directory has no other: that is locked, and may be a copy.
            starts=note_start(data_dir / STARTS_FILE_NAME, started_s) if config.fleet_url else None,
            prepare=self._prepare,
            on_open=on_open,
            on_told=self._told,
            in_thread=lambda work: in_daemon_thread(reactor, work),
            reactor=reactor,
        )
        self.revocation_cache = RevocationCache(data_dir / CACHE_FILE_NAME)
        self.known_vms: Sequence[str] = ()
        self.last_known: Revocations | None = None
        try:
            self._open()
            self._found = self._others(self._nodes.table(started_s)) if self.link.is_open else None
            self.admin_token = self._load_keys(self._found)
        except BaseException:
            self.engine.dispose()
            raise

    def introduce(self, agents: Any, admin: Any) -> None:
        """Begins to tell the fleet of this aggregator. Args: agents, admin: addresses where its doors listen."""
        host = f"[{agents.host}]" if ":" in agents.host else agents.host
        self.me.listen = f"{host}:{agents.port}"
        own = admin_url(self._config.admin[0], admin.port, self._config.listening)
        self.me.admin_url = self._config.node_url or own
        if self.me.admin_url is None:
            self._log.warn("node.url: is not set: neither the report nor another aggregator can ask this one")
        me = self.me.describe()
        if self._found is not None:
            self._seen = me, self._found
        if not self._look() and self._config.fleet_url:
            self.doubts.recall(self._memory.doubt(me.key_marks or ""))
        self.link.start()

    def leaving(self) -> str | None:
        """Why VMs should be sent elsewhere though pushes are taken; None: they should not."""
        return "this aggregator is being drained: others take its VMs" if self.me.is_draining else None

    def drain(self, wanted: Drain) -> None:
        """Has VMs sent elsewhere, or takes that back."""
        self.me.drain(wanted)
        self._log.info("draining: VMs should go elsewhere" if self.me.is_draining else "no longer draining")
        self.link.tell()

    def unless_strange(self, enroll: Enroll) -> Enroll:
        """`enroll`, but for 503 while the token that it gives would be good nowhere else."""

        def ask(body: bytes, peer: str) -> Deferred[bytes]:
            if self.doubts.refused is None:
                return enroll(body, peer)
            return fail(Refused(Problem(503, "not-ready", self.doubts.refused, _RETRY_AFTER_S)))

        return ask

    def _open(self) -> None:
        try:
            self.known_vms = self.link.open(self._clock())
        except AWAY:
            self.last_known = self.revocation_cache.read()
            # Without them tokens that were refused would be good again. A file of SQLite does not come back by itself.
            if self.last_known is None or self.engine.dialect.name == "sqlite":
                raise
            # Whether another aggregator has them the database alone can tell.
            if missing_keys(self._config.data_dir):
                raise
            self._log.info("{n} revocations are those of the last run", n=len(self.last_known))

    def _others(self, table: NodeTable) -> NodeTable:
        # A fleet database within the data directory has no other: any name but ours was that of the same directory.
        nodes = (node for node in table.nodes if node.node != self.me.name) if self._config.fleet_url else ()
        return replace(table, nodes=tuple(nodes))

    def _load_keys(self, others: NodeTable | None) -> str:
        data_dir = self._config.data_dir
        nodes = () if others is None else others.nodes
        admin_token = load_keys(data_dir, [node.node for node in nodes])
        own = mark_keys(TokenKeys.load_or_create(data_dir / KEY_FILE_NAME), admin_token)
        if keys_differ(map(parse_marks, [own, *(node.key_marks for node in nodes)])):
            self._homes.count_now()
        return admin_token

    def _told(self, told: Told) -> None:
        self._seen = told.node, self._others(told.table)
        self._homes.look(is_needed=do_keys_differ([told.node, *self._seen[1].nodes]))
        self._look()
        if told.is_new and len(told.table.nodes) > 1:
            self._on_new_row()

    def _look(self) -> bool:
        """Whether keys could be judged."""
        if self._seen is None:
            return False
        me, others = self._seen
        is_judged = self.doubts.look(me, others, self._homes.known)
        if self._config.fleet_url and is_judged and me.key_marks is not None:
            self._memory.keep(me.key_marks, is_stranger=self.doubts.refused is not None)
        return is_judged

    def _count_homes(self) -> Mapping[str, int]:
        with reading(self.engine) as connection:
            return count_homes(connection)

    def _prepare(self) -> Sequence[str]:
        migrate(self.engine, clock=self._clock)
        # Not before it answers: a mistake in the URL of a first start must not bind the directory to it.
        note_place(self._config.data_dir / FILE_NAME, self.engine.url)
        self.writer.keep_windows(self._config.windows_days)
        return self.writer.known_vms()
