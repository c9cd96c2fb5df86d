SELECT station, cmanp_condition(y, t, c, s) AS posterior FROM readings GROUP BY station
