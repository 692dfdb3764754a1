async def test_json(database):
    async with database.connection() as c:
        assert await c.fetchval("select $1::jsonb", {"a":[1,"é"]}) == {"a":[1,"é"]}
    await database.ping(); print(database.statistics())
    assert len(await database.fetch("select * from schema_migrations"))==1
