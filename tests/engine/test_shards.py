"""What an engine of a shard does by itself: its snapshots from others."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from tidebook.engine.v1 import internal_pb2

from kernel.reasons import Reason
from mesh.status import refused_from
from services.engine.snapshots import SnapshotStore
from tests.support import eventually, free_ports
from tests.support.engine import engine_rig


async def test_an_engine_without_a_snapshot_gets_that_of_the_leader(
    tmp_path: Path, valkey_url: str
) -> None:
    peer = free_ports([0, 100])
    async with engine_rig(tmp_path / "one", valkey_url, engine_followers=1) as rig:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            # Nobody has one yet.
            await rig.start()
            call = rig.internal.ReadSnapshot(internal_pb2.ReadSnapshotRequest())
            async for _ in call:
                pass
        assert refused_from(refused.value).reason is Reason.NOT_FOUND
        trader = await rig.funded(1)
        await trader.place(client_order_id="kept")
        # An engine writes a snapshot as it stops.
        await rig.stop()
        await rig.start()
        mine = SnapshotStore.of(rig.settings).positions()
        assert mine
        both = f"127.0.0.1:{rig.settings.engine_port + 100},127.0.0.1:{peer + 100}"
        other = rig.settings.model_copy(update={"data_dir": tmp_path / "two"})
        follower = await rig.launch(
            engine_port=peer,
            engine_address=both,
            data_dir=other.data_dir,
            pki_dir=rig.settings.certificates_dir,
        )
        try:
            theirs = SnapshotStore.of(other)
            await eventually(lambda: theirs.positions() == mine[-1:], timeout_s=60)
            wanted = SnapshotStore.of(rig.settings).read(mine[-1])
            assert theirs.read(mine[-1]) == wanted
            restored = f"seq={mine[-1]}"
            await eventually(
                lambda: any(
                    "snapshot_restored" in line and restored in line
                    for line in rig.log_path.read_text().splitlines()
                ),
                timeout_s=60,
            )
        finally:
            follower.terminate()
            await follower.wait()
