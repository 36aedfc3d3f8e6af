"""Is the true owner named of a connection that this host translates, or that a container of its own has?

(Items 1 to 4 of issue 12.)
"""

from __future__ import annotations

import contextlib

import pytest
from helpers.askers import FORMS
from helpers.hosts import nameless_uid
from helpers.judged import FAR, OUTSIDE, REAL, REDIRECTED, Judged, Net

pytest_plugins = ["helpers.gateways", "helpers.judged"]

#: A published port.
PUBLISHED = 8080


@pytest.mark.parametrize("form", FORMS)
def test_masqueraded(judged: Judged, net: Net, form: str) -> None:
    """A process of the host's own, as `ip netns exec` makes one: its login name, only with -m, by the port outside."""
    with judged.masqueraded(judged.user.pw_uid, there=net.there, source=net.behind, image=False):
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (OUTSIDE, FAR), target=net.outer) == "ERROR:NO-USER"
        assert judged.asked(form, (REAL, FAR), "-m", target=net.outer) == "ERROR:NO-USER"


@pytest.mark.parametrize("form", FORMS)
def test_an_images_uid_is_a_number(judged: Judged, form: str) -> None:
    """A process with a root directory of its own: the number, what --container-reply says, or a block for the number.

    Never the login name that the host has for that uid, and never that user's block.
    """
    uid, name = judged.user.pw_uid, judged.user.pw_name
    with judged.masqueraded(uid):
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == f"USERID:OTHER:{uid}"
        assert judged.asked(form, (OUTSIDE, FAR), "-m", "--container-reply", "box") == "USERID:UNIX:box"
        assert judged.asked(form, (OUTSIDE, FAR), "-mF", "%u/%g") == f"USERID:OTHER:{uid}"
        for block, reply in (
            (f'user "{name}" {{ default {{ force reply "wrong" }} }}', f"USERID:OTHER:{uid}"),
            (f'user {uid} {{ default {{ force reply "box" }} }}', "USERID:UNIX:box"),
            ("default { default { force hide } }", "ERROR:HIDDEN-USER"),
        ):
            with judged.allowing(block) as options:
                assert judged.asked(form, (OUTSIDE, FAR), "-m", *options) == reply


@pytest.mark.parametrize("form", FORMS)
def test_a_range_of_uids(judged: Judged, form: str) -> None:
    """A container's uid in a range of /etc/subuid is its owner's, with the rules for them; in two people's: unknown."""
    uid, name = nameless_uid(), judged.user.pw_name
    try:
        with judged.masqueraded(uid):
            judged.sub_ids(f"{name}:{uid - 5}:6")
            assert judged.asked(form, (OUTSIDE, FAR), "-m") == f"USERID:UNIX:{name}"
            assert f"({name}, uid {judged.user.pw_uid}, held as uid {uid} in /proc/" in judged.log
            with judged.allowing(f'user "{name}" {{ default {{ force hide }} }}') as options:
                assert judged.asked(form, (OUTSIDE, FAR), "-m", *options) == "ERROR:HIDDEN-USER"
            judged.sub_ids(f"{name}:{uid - 5}:6", f"nobody:{uid}:1")
            assert judged.asked(form, (OUTSIDE, FAR), "-m") == "ERROR:UNKNOWN-ERROR"
            judged.sub_ids(f"{name}:{uid - 5}:5")
            assert judged.asked(form, (OUTSIDE, FAR), "-m") == f"USERID:OTHER:{uid}"
    finally:
        judged.sub_ids()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pids", [(), ("user",), ("user", "inner")], ids="-".join)
def test_a_rootless_container(judged: Judged, form: str, pids: tuple[str, ...]) -> None:
    """A user namespace that is of the very user whose uid the socket has: that user."""
    with judged.masqueraded(judged.user.pw_uid, mapped="user" not in pids, pids=pids):
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == f"USERID:UNIX:{judged.user.pw_name}", judged.log


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pids", [("root",), ("root", "user")], ids="-".join)
def test_an_images_user_namespace(judged: Judged, form: str, pids: tuple[str, ...]) -> None:
    """In a container of root's, a user of the image's makes a user namespace: never the host's user with that uid."""
    with judged.masqueraded(judged.user.pw_uid, mapped="user" not in pids, pids=pids):
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == f"USERID:OTHER:{judged.user.pw_uid}", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_a_published_port(judged: Judged, net: Net, form: str) -> None:
    """The far end has called a port of the host's, which leads into a container: whoever accepted it there."""
    host = f"[{net.behind}]" if ":" in net.behind else net.behind
    family = "ip6" if ":" in net.behind else "ip"
    rule = f"iifname out tcp dport {PUBLISHED} dnat {family} to {host}:80"
    gateway = judged.gateway
    with (
        gateway.translating(rule, hook="prerouting"),
        judged.living("behind", gateway.here, judged.user.pw_uid, image=False, binds=True),
    ):
        judged.within("behind", "listener = socket.create_server((host, 80), family=family_of(host))", host=net.behind)
        with judged.called(net.outer, PUBLISHED, net.there) as port:
            judged.within("behind", "kept.append(listener.accept()[0])")
            reply = judged.asked(form, (PUBLISHED, port), "-m", target=net.outer)
            assert reply == f"USERID:UNIX:{judged.user.pw_name}", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_led_to_a_proxy_here(judged: Judged, net: Net, form: str) -> None:
    """REDIRECT: a local process has accepted what went to another port."""
    with judged.redirected(net.outer, net.there) as port:
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (REDIRECTED, port), "-m", target=net.outer) == named, judged.log
        assert judged.asked(form, (REDIRECTED, port), target=net.outer) == "ERROR:NO-USER"


@pytest.mark.parametrize("form", FORMS)
def test_our_own_to_another_destination(judged: Judged, net: Net, form: str) -> None:
    """A local process' connection that a rule leads elsewhere: the far end sees another address than the process."""
    family, wrong = ("ip6", "fd91::77") if ":" in net.there else ("ip", "10.91.0.77")
    host = f"[{net.there}]" if ":" in net.there else net.there
    gateway = judged.gateway
    with (
        gateway.translating(f"{family} daddr {wrong} tcp dport 7000 dnat {family} to {host}:{FAR}", hook="output"),
        judged.living("here", "", judged.user.pw_uid, image=False),
    ):
        judged.dials("here", wrong, net.outer, far=7000)
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (REAL, FAR), "-m", target=net.outer) == named, judged.log


@pytest.mark.parametrize("form", FORMS)
def test_a_zone(judged: Judged, form: str) -> None:
    """A rule has put the direction of who began it into a zone of its own: found by the other one."""
    rule = f"oifname out tcp dport {FAR} masquerade to :{OUTSIDE}"
    gateway = judged.gateway
    with (
        gateway.translating(rule, zone="iifname in ct original zone set 7"),
        judged.living("behind", gateway.here, judged.user.pw_uid, image=False),
    ):
        judged.dials("behind", gateway.THERE, gateway.HERE)
        named = f"USERID:UNIX:{judged.user.pw_name}"
        assert judged.asked(form, (OUTSIDE, FAR), "-m") == named, judged.log


@pytest.mark.parametrize("form", FORMS)
def test_the_containers_was_first(judged: Judged, net: Net, form: str) -> None:
    """W8: a local user has a socket with the very ends that a container's connection has outside."""
    uid = judged.user.pw_uid
    gateway = judged.gateway
    with (
        gateway.translating(f"oifname out tcp sport {REAL} masquerade to :{OUTSIDE}"),
        judged.living("behind", gateway.here, nameless_uid()),
        judged.living("bob", "", uid, image=False),
    ):
        judged.dials("behind", net.there, net.behind)
        judged.dials("bob", net.there, net.outer, port=OUTSIDE)
        said = judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer)
        assert said == f"USERID:OTHER:{nameless_uid()}", judged.log
        assert judged.asked(form, (OUTSIDE, FAR), target=net.outer) == f"USERID:UNIX:{judged.user.pw_name}"


@pytest.mark.parametrize("form", FORMS)
def test_a_stale_entry(judged: Judged, net: Net, form: str) -> None:
    """Its socket has gone, and conntrack's entry has not: nobody, whoever has the port by now."""
    gateway = judged.gateway
    with judged.masqueraded(judged.user.pw_uid, there=net.there, source=net.behind, image=False):
        with gateway.forgetting():
            judged.within("behind", "kept.pop().close()")
        assert judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer) == "ERROR:NO-USER", judged.log


@pytest.mark.parametrize("form", FORMS)
def test_a_dead_container(judged: Judged, net: Net, form: str) -> None:
    """Its processes have ended, its namespace may have too."""
    gateway = judged.gateway
    with contextlib.ExitStack() as stack:
        stack.enter_context(judged.masqueraded(judged.user.pw_uid, there=net.there, source=net.behind))
        stack.enter_context(gateway.forgetting())
        judged.host.tell("people['behind'].close()")
        said = judged.asked(form, (OUTSIDE, FAR), "-m", target=net.outer)
        assert said in ("ERROR:NO-USER", "ERROR:UNKNOWN-ERROR"), judged.log


def test_explained(judged: Judged) -> None:
    """--explain tells each step: the entry, the namespace, the socket, who holds it, and the rule that names them."""
    uid = judged.user.pw_uid
    with judged.masqueraded(uid):
        said = judged.explained((OUTSIDE, FAR), "-m")
    entry = "conntrack on this host: 10.91.0.1:50123 - 10.91.0.2:6667 is 10.92.0.2:40000 - 10.91.0.2:6667"
    for step in (
        entry, "socket in /proc/", ": 10.92.0.2:40000 10.91.0.2:6667 ESTABLISHED", "held by process ",
        ", a container's", f"uid {uid} is nobody's of this host there",
        f"none: uid {uid} is a container's", f"USERID:OTHER:{uid}",
    ):  # fmt: skip
        assert step in said, said


@pytest.mark.parametrize("form", FORMS)
def test_local_sub_ids(judged: Judged, form: str) -> None:
    """--subuid: a local uid without a login name is of who has its range; one that has both is unknown."""
    uid, name = nameless_uid(), judged.user.pw_name
    named, number = f"USERID:UNIX:{name}", f"USERID:OTHER:{uid}"
    with judged.living("here", "", uid), judged.living("bob", "", judged.user.pw_uid, image=False):
        judged.dials("here", judged.gateway.THERE, judged.gateway.OUTER, port=REAL + 2)
        judged.dials("bob", judged.gateway.THERE, judged.gateway.OUTER, port=REAL + 3)
        try:
            judged.sub_ids(f"{name}:{uid}:1", f"nobody:{judged.user.pw_uid}:1")
            assert judged.asked(form, (REAL + 2, FAR), "--subuid") == named, judged.log
            assert judged.asked(form, (REAL + 2, FAR), "--subuid", "-m") == named, judged.log
            assert judged.asked(form, (REAL + 2, FAR)) == number
            assert judged.asked(form, (REAL + 3, FAR), "--subuid") == "ERROR:UNKNOWN-ERROR"
            assert judged.asked(form, (REAL + 3, FAR), "-m") == named
        finally:
            judged.sub_ids()
