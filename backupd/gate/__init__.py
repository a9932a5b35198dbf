"""The deploy guard: no commit reaches production without a verified backup, its tests, and a look at the app after."""
