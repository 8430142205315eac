"""What people look at: tables and pages made of the typed results of the work. Nothing here computes a number."""
