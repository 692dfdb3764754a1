"""Trust: what makes an email provable. Pure; the rules are in docs/spec/certificate-v1.md."""
