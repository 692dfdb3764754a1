-- Explain: what a step read and which models it asked, kept with the step in the same statement.

-- reads: memory citations, tools and earlier steps, never their text: what is forgotten later is
-- gone from here, too. calls: engine, model, route, tokens, cost, times, tries. agent: who did it.
ALTER TABLE steps
    ADD COLUMN reads jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN calls jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN agent text  NOT NULL DEFAULT '';
