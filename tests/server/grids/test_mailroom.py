from dataclasses import replace

from fedstill.server.grids.mailroom import Job, Mailroom


def job(node_id, name=""):
    return Job(message_id=name or f"m{node_id}", node_id=node_id, data=b"", expires_at=0.0)


def filled(num_hosts, node_ids):
    mail = Mailroom(num_hosts)
    for node_id in node_ids:
        mail.put(job(node_id))
    return mail


def nodes(jobs):
    return [job.node_id for job in jobs]


def test_host_takes_its_own_nodes_first():
    mail = filled(2, range(1, 7))
    assert [nodes(mail.take(1)) for _ in range(3)] == [[2], [4], [6]]


def test_idle_host_helps_out_from_the_far_end():
    mail = filled(2, [1, 3, 5])
    assert nodes(mail.take(1)) == [5]


def test_node_stays_where_it_went():
    mail = filled(2, [1])
    mail.take(1)
    mail.done(1)
    assert mail.put(job(1)) == 1


def test_nothing_waits():
    assert Mailroom(2).take(0, at_most=8) == []


def test_batch_is_no_more_than_a_fair_share():
    mail = filled(2, range(1, 11))
    assert nodes(mail.take(0, at_most=32)) == [1, 3, 5, 7, 9]


def test_node_with_a_message_in_hand_is_not_given_out():
    mail = Mailroom(2)
    mail.put(job(1, "first"))
    mail.put(job(1, "second"))
    assert [job.message_id for job in mail.take(0)] == ["first"]
    assert mail.take(1) == []
    mail.done(1)
    assert [job.message_id for job in mail.take(1)] == ["second"]


def test_message_put_back_comes_before_later_ones_of_its_node():
    mail = Mailroom(1)
    mail.put(job(1, "first"))
    [first] = mail.take(0)
    mail.put(job(1, "second"))
    mail.put_back(first)
    assert [job.message_id for job in mail.take(0)] == ["first"]
    mail.done(1)
    assert [job.message_id for job in mail.take(0)] == ["second"]


def test_message_that_travels_alone_shares_no_batch():
    mail = filled(1, [1, 2, 3])
    taken = mail.take(0, at_most=3)
    for each in reversed(taken):
        mail.put_back(replace(each, travels_alone=each.node_id == 2))
    assert [nodes(mail.take(0, at_most=3)) for _ in range(3)] == [[1], [2], [3]]


def test_nodes_and_hosts_of_a_kind_stay_among_themselves():
    mail = Mailroom(4, num_kinds=2)
    homes = {node_id: mail.put(job(node_id)) for node_id in range(1, 8)}
    assert homes == {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2}
    taken = [nodes(mail.take(0)) for _ in range(5)]
    assert sorted(node for part in taken for node in part) == [
        1,
        3,
        5,
        7,
    ]  # helps host 2 out, but not 1 and 3
    assert taken[-1] == []


def test_a_batch_is_a_fair_share_of_what_its_kind_may_take():
    mail = Mailroom(3, num_kinds=2)
    for node_id in (1, 2, 3, 4, 6):
        mail.put(job(node_id))
    assert nodes(mail.take(1, at_most=32)) == [2, 4, 6]
    assert nodes(mail.take(0, at_most=32)) == [1]


def test_only_a_message_with_time_left_waits_behind_another_and_never_the_last():
    room = Mailroom(1)
    for node_id in (1, 2, 3):
        room.put(replace(job(node_id), expires_at=100.0, travels_alone=node_id == 2))
    assert room.may_wait(0, until=99.0)
    assert not room.may_wait(0, until=100.0)
    room.take(0)
    assert not room.may_wait(0, until=0.0)  # the next one travels alone
    room.take(0)
    assert not room.may_wait(0, until=0.0)  # the last


def grouped(num_hosts, node_ids, group="train 1"):
    mail = Mailroom(num_hosts)
    for node_id in node_ids:
        mail.put(replace(job(node_id), group=group))
    return mail


def test_a_host_takes_all_its_own_of_a_group():
    mail = grouped(2, range(1, 9))
    assert nodes(mail.take(0, of_group=32)) == [1, 3, 5, 7]
    assert nodes(mail.take(1, of_group=32)) == [2, 4, 6, 8]


def test_of_a_group_no_more_than_wanted_and_of_others_a_share():
    mail = grouped(2, range(1, 13))
    assert nodes(mail.take(0, of_group=4)) == [1, 3, 5, 7]
    assert nodes(mail.take(0, of_group=4)) == [9, 11, 12, 10]
    assert nodes(mail.take(0, of_group=4)) == [8, 6]


def test_two_groups_never_go_together():
    mail = grouped(1, range(1, 4))
    for node_id in (4, 5):
        mail.put(replace(job(node_id), group="train 2"))
    assert nodes(mail.take(0, of_group=32)) == [1, 2, 3]
    assert nodes(mail.take(0, of_group=32)) == [4, 5]


def test_one_that_took_its_host_along_goes_alone_though_it_has_a_group():
    mail = Mailroom(1)
    mail.put(replace(job(1), group="train 1"))
    mail.put(replace(job(2), group="train 1", travels_alone=True))
    mail.put(replace(job(3), group="train 1"))
    assert [nodes(mail.take(0, of_group=32)) for _ in range(3)] == [[1], [2], [3]]
