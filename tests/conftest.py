"""Hypothesis draws the same examples on every run, so that a red test stays red until the code changes."""

from hypothesis import HealthCheck, Phase, settings

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=20, suppress_health_check=slow)
settings.register_profile("thorough", deadline=None, max_examples=500, suppress_health_check=slow)
settings.register_profile("museum", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])  # no shrinking
settings.load_profile("ci")  # --hypothesis-profile=thorough looks for new examples
