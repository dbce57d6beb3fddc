"""Wu (2022), thesis: sparse coding, anchor vectors, Hessians and PAC-Bayes bounds."""
