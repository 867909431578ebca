"""Planted violations of the rules of our own actions, ACTION-14 and on; import it to register them."""

from __future__ import annotations

from itertools import count
from typing import Any

from dls.catalogue.changes import MarkFiles
from dls.logistics.transfer.inodes import Inodes
from dls.logistics.transfer.prove import Proof
from dls.logistics.transfer.receipt import Place
from dls.logistics.transfer.small import Failures
from dls.madpp import attested, imaging, layout, places, saved
from dls.madpp.action import Context
from dls.madpp.actions import compute, pack, register, release, stage_in, stage_out, staged, verify, withdraw
from dls.madpp.testing.bringing import BringingRules
from dls.madpp.testing.imaging import ImageRules
from dls.madpp.testing.keeping import KeepingRules
from dls.madpp.testing.making import MakingRules
from dls.madpp.testing.packing import PackRules
from dls.madpp.testing.planted import Patch, no_sharing, nothing, violation, wrap
from dls.madpp.testing.staging import StageImageRules


@violation("ACTION-14", BringingRules)
def buffers_are_not_shared(patch: Patch) -> None:
    no_sharing(patch)


@violation("ACTION-14", BringingRules)
def the_newest_version_serves_for_all(patch: Patch) -> None:
    wrap(patch, stage_in, "wish", lambda wish, context, text: wish(context, text.partition("@")[0]))


@violation("ACTION-15", BringingRules)
def one_source_must_do(patch: Patch) -> None:
    wrap(patch, stage_in, "sources", lambda sources, *a, **k: sources(*a, **k)[:1])


@violation("ACTION-15", BringingRules)
def a_source_that_failed_is_not_marked(patch: Patch) -> None:
    patch.setattr(stage_in, "blame", nothing)


@violation("ACTION-16", BringingRules)
def withdrawing_leaves_the_evidence(patch: Patch) -> None:
    patch.setattr(withdraw, "withdraw", nothing)


@violation("ACTION-17", BringingRules)
def damage_is_found_and_not_marked(patch: Patch) -> None:
    def findings(original: Any, *a: Any) -> Any:
        return [change for change in original(*a) if not isinstance(change, MarkFiles)]

    wrap(patch, verify, "_findings", findings)


@violation("ACTION-18", BringingRules)
def what_differs_is_replaced(patch: Patch) -> None:
    patch.setattr(stage_in, "_damaged", lambda _, work, __: stage_in._all(work))


@violation("ACTION-18", KeepingRules)
def changed_files_go_unseen(patch: Patch) -> None:
    wrap(patch, saved, "beyond", lambda beyond, *a, **k: saved.Beyond("") if beyond(*a, **k).count else beyond(*a, **k))


@violation("ACTION-18", KeepingRules)
def added_files_go_unseen(patch: Patch) -> None:
    patch.setattr(saved, "merge", lambda *_: iter(()))


@violation("ACTION-19", KeepingRules)
def a_single_file_stands_for_its_buffer(patch: Patch) -> None:
    def whole(_: Any, context: Context, work: Any) -> Any:
        return places.containing(context, work.source.url) if work.source else None

    wrap(patch, stage_out, "_whole_buffer", whole)
    patch.setattr(saved, "beyond", lambda *_, **__: saved.Beyond(""))


@violation("ACTION-19", KeepingRules)
def old_evidence_is_believed(patch: Patch) -> None:
    patch.setattr(release, "secure", lambda *_: "")


@violation("ACTION-19", KeepingRules)
def a_link_to_itself_is_another_copy(patch: Patch) -> None:
    patch.setattr(saved, "_same_bytes", lambda *_: False)


@violation("ACTION-19", KeepingRules)
def another_buffer_counts_like_a_store(patch: Patch) -> None:
    patch.setattr(saved, "containing", lambda *_: None)


@violation("ACTION-20", KeepingRules)
def what_expired_is_freed_whatever_it_holds(patch: Patch) -> None:
    def secure(_: Any, context: Context, buffer: Any) -> str:
        context.buffers.mark_clean(buffer.id, "replica:hope")
        return ""

    wrap(patch, release, "secure", secure)


@violation("ACTION-20", KeepingRules)
def staging_is_left_behind(patch: Patch) -> None:
    patch.setattr(release, "_places", nothing)


@violation("ACTION-21", BringingRules)
def an_address_that_changed_keeps_its_versions(patch: Patch) -> None:
    patch.setattr(register, "contradicted", nothing)
    patch.setattr(staged, "contradicted", nothing)


@violation("ACTION-21", BringingRules)
def a_buffer_is_registered_as_a_place(patch: Patch) -> None:
    patch.setattr(register, "apart", nothing)


@violation("ACTION-22", MakingRules)
def every_saving_has_a_place_of_its_own(patch: Patch) -> None:
    turn = count()
    wrap(patch, stage_out, "_below", lambda below, label: below(label) + b"-%d" % next(turn))


@violation("ACTION-22", MakingRules)
def a_target_in_a_buffer_is_taken(patch: Patch) -> None:
    patch.setattr(stage_out, "apart", nothing)


@violation("ACTION-23", MakingRules)
def changed_inputs_go_unseen(patch: Patch) -> None:
    patch.setattr(compute, "_changed", nothing)


@violation("ACTION-23", MakingRules)
def a_command_that_failed_is_a_result(patch: Patch) -> None:
    wrap(patch, compute, "execute", lambda execute, *a: execute(*a) * 0)


@violation("ACTION-24", BringingRules)
def folders_take_no_inodes(patch: Patch) -> None:
    patch.setattr(Inodes, "_open", nothing)


@violation("ACTION-25", ImageRules)
def an_image_is_read_like_a_folder(patch: Patch) -> None:
    def plain(context: Context, replica: Any) -> Any:
        return context.open_store(replica.url)

    patch.setattr(saved, "open_replica", plain)
    patch.setattr(verify, "open_replica", plain)


@violation("ACTION-25", ImageRules)
def an_image_of_which_nothing_can_be_read_stays_complete(patch: Patch) -> None:
    patch.setattr(saved, "condemn", nothing)
    patch.setattr(verify, "condemn", nothing)


@violation("ACTION-25", ImageRules)
def an_image_is_registered_unread(patch: Patch) -> None:
    wrap(patch, register, "prove", lambda prove, store, wanted, *a, **k: _unread(prove(store, wanted, *a, **k)))


def _unread(proof: Any) -> Any:
    proof.corrupt, proof.missing, proof.manifest = Failures(), Failures(), proof.manifest
    return proof


@violation("ACTION-26", PackRules)
def an_image_of_other_bytes_is_shown(patch: Patch) -> None:
    patch.setattr(attested, "registered", lambda *_: nothing)


@violation("ACTION-26", PackRules)
def a_source_that_changes_while_it_is_packed_goes_unseen(patch: Patch) -> None:
    patch.setattr(attested, "unmoved", lambda *_: nothing)


@violation("ACTION-26", PackRules)
def what_lies_at_the_name_is_replaced_unasked(patch: Patch) -> None:
    patch.setattr(pack.Pack, "_clear", nothing)


@violation("ACTION-26", PackRules)
def every_packing_packs_again(patch: Patch) -> None:
    patch.setattr(attested, "look", lambda *_: attested.Found(attested.State.ABSENT))
    patch.setattr(imaging, "taken", nothing)
    wrap(patch, imaging, "make", lambda make, c, o, a, options, t: make(c, o, a, options._replace(replace=True), t))


@violation("ACTION-27", StageImageRules)
def an_image_is_copied_unproven(patch: Patch) -> None:
    patch.setattr(attested, "proven", lambda _, __, wanted: Proof(wanted.manifest, Place("", "")))


@violation("ACTION-27", StageImageRules)
def an_image_and_a_tree_share_a_buffer(patch: Patch) -> None:
    patch.setattr(layout, "as_image", lambda content: content)


@violation("ACTION-27", StageImageRules)
def what_lies_beside_an_image_is_not_looked_at(patch: Patch) -> None:
    patch.setattr(saved, "_held", lambda *_: saved.Beyond(""))
