"""What any machine is asked and how: its settings, units, programs and interpreters."""
