from tests.bench.steady_memory import MemoryCurve


def test_growth_is_that_of_the_late_samples():
    curve = MemoryCurve()
    for minute in range(31):
        # Fills for ten minutes, then grows by 2 MiB a minute; another process comes late and stays as it is.
        mib = {"engine": min(minute, 10) * 100 + 2.0 * minute}
        curve.add(minute, mib | ({"late": 50.0} if minute >= 5 else {}))
    assert len(curve.mib["late"]) == len(curve.minutes) == 31
    assert curve.mib["late"][:6] == [0.0] * 5 + [50.0]
    assert curve.growth() == {"engine": 2.0, "late": 0.0, "all": 2.0}


def test_a_process_that_is_gone_takes_nothing():
    curve = MemoryCurve()
    curve.add(0, {"a": 1.0, "b": 1.0})
    curve.add(1, {"a": 1.0})
    assert curve.mib["b"] == [1.0, 0.0]
