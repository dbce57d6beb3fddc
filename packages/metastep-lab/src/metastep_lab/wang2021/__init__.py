"""Wang, Yuan, Wu, Ge (2021), Guarantees for tuning the step size by learning to learn."""
