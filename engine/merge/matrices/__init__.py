"""The ΔW of one module as matrices: factors from files, their joint subspace, blocks of rows, singular form."""
