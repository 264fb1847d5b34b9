"""What a person sees: tables, findings, reports, bars."""
