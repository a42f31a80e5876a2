from gradgrad.tracking.config_diff import config_diff


def test_keys_that_differ():
    before = {"trainer": {"max_epochs": 100, "callbacks": [{"a": 1}]}, "data": {"split": 0, "names": [1, 2]}, "old": None}
    after = {"trainer": {"max_epochs": 100, "callbacks": [{"a": 1}, {"b": 2}]}, "data": {"split": "0", "names": [1]}}
    assert config_diff(before, after) == (
        "+trainer.callbacks.1.b: 2\n-data.names: [1, 2]\n+data.names: [1]\n-old: null\n"  # "0" and 0 are typed alike
    )
    assert config_diff(after, after) == ""


def test_secrets_are_not_told():
    assert config_diff({"api_key": "abc", "uri": "http://a:b@c"}, {"api_key": "def", "uri": "http://a:d@c"}) == ""
    assert config_diff({}, {"api_key": "def"}) == "+api_key: ***\n"
