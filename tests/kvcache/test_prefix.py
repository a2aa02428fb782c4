"""The prefix index: chains, salts, and collisions that must not matter."""

from __future__ import annotations

from forerun.kvcache import PrefixIndex, keyed_hash


def test_digests_depend_on_parent_contents_salt_and_key() -> None:
    one, two = keyed_hash(b"k" * 32), keyed_hash()
    index = PrefixIndex(one)
    root = index.root("")
    digests = {
        root,
        index.root("other"),
        one(root, b"abcd"),
        one(root, b"abce"),
        one(one(root, b"abcd"), b"abcd"),
        two(root, b"abcd"),
    }
    assert len(digests) == 6
    assert one(root, b"abcd") == keyed_hash(b"k" * 32)(root, b"abcd")


def test_find_enter_and_drop() -> None:
    index = PrefixIndex(keyed_hash())
    root = index.root("")
    digest = index.hash(root, b"abcd")
    assert index.find(digest, root, b"abcd") is None
    assert index.enter(digest, root, b"abcd", 5)
    assert index.find(digest, root, b"abcd") == 5 and 5 in index
    assert not index.enter(digest, root, b"abcd", 6), "the first of equal blocks stays"
    assert not index.drop(6)
    assert index.drop(5) and len(index) == 0 and 5 not in index
    assert index.find(digest, root, b"abcd") is None


def test_a_colliding_hash_hands_out_nothing_wrong() -> None:
    index = PrefixIndex(lambda parent, contents: b"same" if contents.startswith(b"block") else parent + contents)
    root = index.root("a")
    index.enter(b"same", root, b"block 1", 1)
    assert index.find(b"same", root, b"block 2") is None, "other tokens"
    assert index.find(b"same", index.root("b"), b"block 1") is None, "another salt"
    assert index.find(b"same", root, b"block 1") == 1


def test_salts_with_lone_surrogates_are_salts_like_others() -> None:
    index = PrefixIndex(keyed_hash())
    assert index.root("\ud800") != index.root("\ud801")
