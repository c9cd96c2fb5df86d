//! The functions in queries, however the engine cuts the rows, and what is wrong with queries.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray},
        datatypes::{Float64Type, UInt64Type},
        util::pretty::pretty_format_batches,
    },
    datasource::MemTable,
    prelude::{SessionConfig, SessionContext},
};
use wgpu_attention::{
    Device,
    models::cmanp::{Cmanp, Context},
};
use wgpu_attention_datafusion::{Functions, register};

const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../checkpoints/cmanp_gp_1d.safetensors");

/// A point; functions predict 64 of them together.
const AT: [f64; 3] = [0.5, 1.0, 0.0];

/// One reading of a station: a time, a phase and a value.
type Row = (i64, Option<f64>, [Option<f64>; 3]);

fn rows(n: usize) -> Vec<Row> {
    let row = |i: usize| {
        let t = ((i * 7919) % 4801) as f64 / 1000.0 - 2.4;
        let y = (2.0 * t).sin() + 0.01 * ((i * 31) % 17) as f64;
        ((i * 13 % 11) as i64, Some(y), [Some(t), Some((9.0 * t).cos()), Some((9.0 * t).sin())])
    };
    (0..n).map(row).collect()
}

fn batch(rows: &[Row]) -> RecordBatch {
    let number = |of: &dyn Fn(&Row) -> Option<f64>| Arc::new(rows.iter().map(of).collect::<Float64Array>()) as ArrayRef;
    let stations: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
    let names: StringArray = rows.iter().map(|row| Some(format!("s{}", row.0))).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("station", Arc::new(stations) as ArrayRef, true),
        ("name", Arc::new(names) as ArrayRef, true),
        ("y", number(&|row| row.1), true),
        ("t", number(&|row| row.2[0]), true),
        ("c", number(&|row| row.2[1]), true),
        ("s", number(&|row| row.2[2]), true),
    ])
    .unwrap()
}

/// A session with a table `readings` of these rows in batches of `size`, cut into as many partitions.
fn session(functions: &Functions, rows: &[Row], size: usize, partitions: usize) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(size.max(10));
    let context = SessionContext::new_with_config(config);
    functions.register(&context);
    let batches: Vec<RecordBatch> = rows.chunks(size).map(batch).collect();
    let mut parts = vec![Vec::new(); partitions];
    let schema = batch(&[]).schema();
    batches.into_iter().enumerate().for_each(|(i, batch)| parts[i % partitions].push(batch));
    context.register_table("readings", Arc::new(MemTable::try_new(schema, parts).unwrap())).unwrap();
    context
}

async fn query(context: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>, String> {
    let table = context.sql(sql).await.map_err(|error| error.to_string())?;
    table.collect().await.map_err(|error| error.to_string())
}

/// The one column of bytes.
async fn posteriors(context: &SessionContext, sql: &str) -> Vec<Option<Vec<u8>>> {
    let batches = query(context, sql).await.unwrap();
    let of = |batch: &RecordBatch| {
        let column = batch.columns().last().unwrap().clone();
        column.as_binary_view().iter().map(|bytes| bytes.map(<[u8]>::to_vec)).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

fn numbers(batches: &[RecordBatch], column: usize) -> Vec<Option<f64>> {
    batches.iter().flat_map(|batch| batch.column(column).as_primitive::<Float64Type>().iter()).collect()
}

async fn refused(context: &SessionContext, sql: &str, words: &[&str]) {
    let message = query(context, sql).await.map(|batches| pretty_format_batches(&batches).unwrap().to_string());
    let message = message.expect_err(sql);
    assert!(words.iter().all(|word| message.contains(word)) && !message.contains("panicked"), "{sql}: {message}");
}

const BY_STATION: &str =
    "SELECT station, cmanp_condition(y, t, c, s) AS p FROM readings GROUP BY station ORDER BY station";

#[tokio::test(flavor = "multi_thread")]
async fn the_bits_do_not_depend_on_how_the_engine_cuts_the_rows() {
    let functions = Functions::open(CHECKPOINT).unwrap();
    let mut rows = rows(6000);
    let expected = posteriors(&session(&functions, &rows, 8192, 1), BY_STATION).await;
    assert_eq!(expected.len(), 11);
    for (partitions, size) in [(2, 100), (7, 33), (64, 10)] {
        // Another order, too.
        rows.rotate_left(1234);
        rows.reverse();
        let found = posteriors(&session(&functions, &rows, size, partitions), BY_STATION).await;
        assert!(found == expected, "{partitions} partitions");
    }
    // What the library makes of the same rows.
    let model = Cmanp::open(&Device::cpu(), CHECKPOINT).unwrap().exact().unwrap();
    let of_first: Vec<&Row> = rows.iter().filter(|row| row.0 == 0).collect();
    let x: Vec<f64> = of_first.iter().flat_map(|row| row.2.map(Option::unwrap)).collect();
    let y: Vec<f32> = of_first.iter().map(|row| row.1.unwrap() as f32).collect();
    let direct = model.condition(&Context::new(&x, &y)).unwrap().predict(&AT.repeat(64)).unwrap();
    let context = session(&functions, &rows, 100, 3);
    let sql = format!(
        "SELECT q.mean, q.std, q.q95 FROM (SELECT cmanp_predict(p, 0.5, 1, 0) AS q FROM ({BY_STATION}) WHERE station = 0)"
    );
    let found = query(&context, &sql).await.unwrap();
    let [mean, std] = [direct.mean()[0], direct.std()[0]].map(f64::from);
    assert_eq!((numbers(&found, 0), numbers(&found, 1)), (vec![Some(mean)], vec![Some(std)]));
    assert!((numbers(&found, 2)[0].unwrap() - mean - 1.645 * std).abs() < 1e-3 * std);
}

/// The engine then makes a partial state of every row, instead of gathering groups that gather nothing.
#[tokio::test(flavor = "multi_thread")]
async fn groups_may_be_as_many_as_rows() {
    let functions = Functions::open(CHECKPOINT).unwrap();
    let config = SessionConfig::new()
        .with_target_partitions(2)
        .set_u64("datafusion.execution.skip_partial_aggregation_probe_rows_threshold", 100)
        .set_str("datafusion.execution.skip_partial_aggregation_probe_ratio_threshold", "0.1");
    let context = SessionContext::new_with_config(config);
    functions.register(&context);
    let rows: Vec<Row> = rows(1500).into_iter().enumerate().map(|(i, row)| (i as i64 / 2, row.1, row.2)).collect();
    let parts = rows.chunks(750).map(|rows| rows.chunks(50).map(batch).collect()).collect();
    let table = MemTable::try_new(batch(&[]).schema(), parts).unwrap();
    context.register_table("readings", Arc::new(table)).unwrap();
    let found = posteriors(&context, &format!("{BY_STATION} LIMIT 40")).await;
    let gathered = session(&functions, &rows, 1000, 1);
    assert!(found == posteriors(&gathered, &format!("{BY_STATION} LIMIT 40")).await);
    let plan = query(&context, &format!("EXPLAIN ANALYZE {BY_STATION}")).await.unwrap();
    let plan = pretty_format_batches(&plan).unwrap().to_string();
    let skipped = plan.split("skipped_aggregation_rows=").nth(1).and_then(|rest| rest.split([',', ']']).next());
    assert!(skipped.is_some_and(|n| n.trim() != "0"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterday_and_today_merge_to_all() {
    for functions in [Functions::open(CHECKPOINT).unwrap(), Functions::open(CHECKPOINT).unwrap().rounded()] {
        let context = session(&functions, &rows(3000), 100, 3);
        query(&context, &format!("CREATE TABLE yesterday AS {}", BY_STATION.replace("GROUP", "WHERE t < 1 GROUP")))
            .await
            .unwrap();
        let today = BY_STATION.replace("GROUP", "WHERE t >= 1 GROUP").replace(" ORDER BY station", "");
        let merged = format!(
            "SELECT station, cmanp_merge(p) AS p FROM (SELECT * FROM yesterday UNION ALL {today}) GROUP BY station ORDER BY station"
        );
        // In an order of its own: the engine drops that of a subquery.
        let predict = |of: &str| {
            format!(
                "SELECT q.mean FROM (SELECT station, cmanp_predict(p, 0.3, 1, 0) AS q FROM ({of})) ORDER BY station"
            )
        };
        let found = numbers(&query(&context, &predict(&merged)).await.unwrap(), 0);
        let whole = numbers(&query(&context, &predict(BY_STATION)).await.unwrap(), 0);
        assert_eq!(found.len(), 11);
        let off = found.iter().zip(&whole).map(|(a, b)| (a.unwrap() - b.unwrap()).abs()).fold(0.0, f64::max);
        assert!(off < 1e-4, "{functions:?}: {off}");
        let exactly = posteriors(&context, &merged).await == posteriors(&context, BY_STATION).await;
        assert_eq!(exactly, !format!("{functions:?}").contains("exact: false"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dictionary_is_its_values() {
    let context = session(&Functions::open(CHECKPOINT).unwrap(), &rows(500), 100, 2);
    let plain = posteriors(&context, BY_STATION).await;
    let numbers = "arrow_cast(y, 'Dictionary(Int32, Float64)'), arrow_cast(t, 'Dictionary(Int64, Float64)')";
    assert_eq!(posteriors(&context, &BY_STATION.replace("y, t", numbers)).await, plain);
    let bytes = "arrow_cast(arrow_cast(p, 'Binary'), 'Dictionary(Int32, Binary)')";
    let again =
        format!("SELECT station, cmanp_merge({bytes}) AS p FROM ({BY_STATION}) GROUP BY station ORDER BY station");
    assert_eq!(posteriors(&context, &again).await, plain);
    let all =
        format!("SELECT station, cmanp_predict({bytes}, 0.3, 1, 0) AS q, cmanp_points({bytes}) FROM ({BY_STATION})");
    assert_eq!(query(&context, &all).await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_are_skipped_and_counted() {
    let mut rows = rows(200);
    for (i, row) in rows.iter_mut().enumerate() {
        match i % 10 {
            0 => row.1 = None,
            1 => row.2[2] = None,
            _ => {}
        }
        // A station without a whole row.
        if row.0 == 3 {
            row.2[0] = None;
        }
    }
    let functions = Functions::open(CHECKPOINT).unwrap();
    let context = session(&functions, &rows, 7, 4);
    let sql = format!(
        "SELECT n.read, n.skipped, station FROM (SELECT cmanp_points(p) AS n, station FROM ({BY_STATION})) ORDER BY station"
    );
    let batches = query(&context, &sql).await.unwrap();
    let counts = |column: usize| -> Vec<Option<u64>> {
        batches.iter().flat_map(|batch| batch.column(column).as_primitive::<UInt64Type>().iter()).collect()
    };
    let (read, skipped) = (counts(0), counts(1));
    for station in 0..11 {
        let of: Vec<&Row> = rows.iter().filter(|row| row.0 == station).collect();
        let whole = of.iter().filter(|row| row.1.is_some() && row.2.iter().all(Option::is_some)).count() as u64;
        let expected = (station != 3).then_some((whole, of.len() as u64 - whole));
        let found = read[station as usize].zip(skipped[station as usize]);
        assert_eq!(found, expected, "station {station}");
    }
    // Nothing at all is NULL, and so is what is predicted of it.
    for sql in [
        "SELECT cmanp_condition(y, t, c, s) FROM readings WHERE false",
        "SELECT cmanp_condition(y, t, c, s) FROM readings WHERE station = 3",
        "SELECT cmanp_merge(CAST(NULL AS BYTEA)) FROM readings",
    ] {
        assert_eq!(posteriors(&context, sql).await, [None], "{sql}");
    }
    let sql = format!(
        "SELECT q.mean FROM (SELECT cmanp_predict(p, t, 1, 0) AS q FROM ({BY_STATION}) CROSS JOIN (VALUES (0.5), (NULL)) AS at (t))"
    );
    let means = numbers(&query(&context, &sql).await.unwrap(), 0);
    assert_eq!((means.len(), means.iter().flatten().count()), (22, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_slides_over_exact_sums() {
    let functions = Functions::open(CHECKPOINT).unwrap();
    let mut rows = rows(60);
    (0..).zip(&mut rows).for_each(|(i, row)| row.0 = i);
    rows[20].1 = None;
    let context = session(&functions, &rows, 10, 2);
    let sql = "SELECT q.mean FROM (SELECT station, cmanp_predict(p, 0.5, 1, 0) AS q FROM (SELECT station, \
               cmanp_condition(y, t, c, s) OVER (ORDER BY station ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS p \
               FROM readings)) ORDER BY station";
    let found = numbers(&query(&context, sql).await.unwrap(), 0);
    let model = Cmanp::open(&Device::cpu(), CHECKPOINT).unwrap().exact().unwrap();
    for (i, found) in found.into_iter().enumerate() {
        let of: Vec<&Row> = rows[i.saturating_sub(6)..=i].iter().filter(|row| row.1.is_some()).collect();
        let x: Vec<f64> = of.iter().flat_map(|row| row.2.map(Option::unwrap)).collect();
        let y: Vec<f32> = of.iter().map(|row| row.1.unwrap() as f32).collect();
        let expected = model.condition(&Context::new(&x, &y)).unwrap().predict(&AT.repeat(64)).unwrap().mean()[0];
        assert_eq!(found, Some(f64::from(expected)), "row {i}");
    }
    // All of its bytes are those of its rows alone, what it says of their range included.
    let of_rows = "SELECT a.station, cmanp_condition(b.y, b.t, b.c, b.s) AS p FROM readings a JOIN readings b \
                   ON b.station BETWEEN a.station - 6 AND a.station GROUP BY a.station";
    let of_frames =
        "SELECT station, cmanp_condition(y, t, c, s) OVER (ORDER BY station ROWS 6 PRECEDING) AS p FROM readings";
    let same =
        format!("SELECT CAST(w.p = r.p AS INT) FROM ({of_frames}) w JOIN ({of_rows}) r ON w.station = r.station");
    assert_eq!(
        numbers(
            &query(&context, &format!("SELECT CAST(count(*) AS DOUBLE) FROM ({same}) AS x (same) WHERE same = 1"))
                .await
                .unwrap(),
            0
        ),
        [Some(60.0)]
    );
    let rounded = session(&functions.rounded(), &rows, 10, 2);
    refused(&rounded, sql, &["cmanp_condition cannot slide", "rounded"]).await;
    let merges = format!("SELECT cmanp_merge(p) OVER (ORDER BY station ROWS 4 PRECEDING) FROM ({of_frames})");
    refused(&context, &merges, &["cmanp_merge cannot slide", "GROUP BY"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_know_nothing_of_the_order_of_zeros_and_what_is_outside_is_said() {
    let functions = Functions::open(CHECKPOINT).unwrap();
    let context = session(&functions, &rows(4), 10, 2);
    let of = |first: &str, second: &str| {
        format!("SELECT cmanp_condition(y, t, 1, 0) FROM (VALUES (0.5, {first}), (-0.5, {second})) AS r (y, t)")
    };
    let zero = "CAST('-0' AS DOUBLE)";
    let orders = [of("0.0", zero), of(zero, "0.0"), format!("{} WHERE y > 0 OR y < 0", of("0.0", "0.0"))];
    let mut bytes = Vec::new();
    for sql in &orders {
        bytes.push(posteriors(&context, sql).await);
    }
    assert!(bytes[0] == bytes[1] && bytes[0] == bytes[2]);
    // Where the network was trained, and a record that is ten times as long.
    let outside = |scale: f64| {
        format!(
            "SELECT CAST(coalesce(cmanp_outside(p) LIKE '%extent%', false) AS DOUBLE) FROM (SELECT \
             cmanp_condition(sin(t), {scale} * t, 1, 0) AS p FROM (VALUES (-1.5), (-1.0), (-0.5), (0.0), (0.5), (1.0), (1.5)) AS r (t))"
        )
    };
    assert_eq!(numbers(&query(&context, &outside(10.0)).await.unwrap(), 0), [Some(1.0)]);
    assert_eq!(numbers(&query(&context, &outside(1.0)).await.unwrap(), 0), [Some(0.0)]);
    // Where f32 does not tell points apart nothing is predicted, as nothing is read.
    let far = "SELECT cmanp_predict(p, 1.6e9, 1, 0) FROM (SELECT cmanp_condition(y, t, c, s) AS p FROM readings)";
    refused(&context, far, &["cmanp_predict", "1600000000", "scale"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_name_the_function_the_argument_and_what_is_allowed() {
    let functions = Functions::open(CHECKPOINT).unwrap();
    let mut rows = rows(50);
    rows[33].2[1] = Some(f64::NAN);
    let context = session(&functions, &rows, 10, 2);
    let all = "FROM readings";
    refused(
        &context,
        &format!("SELECT cmanp_condition(y, t, c, s) {all}"),
        &["cmanp_condition", "argument 3", "c@", "NaN", "row 3 of"],
    )
    .await;
    let infinite = format!("SELECT cmanp_condition(y / 0.0, t, c, s) {all} WHERE station = 1");
    refused(&context, &infinite, &["cmanp_condition", "argument 1", "inf", "finite"]).await;
    refused(
        &context,
        &format!("SELECT cmanp_condition(1e300, t, 1, s) {all}"),
        &["cmanp_condition", "argument 1", "f32"],
    )
    .await;
    refused(&context, &format!("SELECT cmanp_condition(y, 1e19, 1, s) {all}"), &["cmanp_condition", "fill value"])
        .await;
    refused(
        &context,
        &format!("SELECT cmanp_condition(y, t) {all}"),
        &["cmanp_condition has 2 arguments", "4: 1 of y, then 3 of x"],
    )
    .await;
    refused(
        &context,
        &format!("SELECT cmanp_condition(name, t, c, s) {all}"),
        &["cmanp_condition", "argument 1, y1", "numbers"],
    )
    .await;
    refused(
        &context,
        &format!("SELECT cmanp_condition(y, t, c, name) {all}"),
        &["cmanp_condition", "argument 4, x3", "numbers"],
    )
    .await;
    refused(&context, &format!("SELECT cmanp_condition(DISTINCT y, t, c, s) {all}"), &["cmanp_condition", "DISTINCT"])
        .await;
    refused(&context, &format!("SELECT cmanp_condition() {all}"), &["cmanp_condition"]).await;
    refused(&context, &format!("SELECT cmanp_merge(y) {all}"), &["cmanp_merge", "argument 1", "cmanp_condition"]).await;
    refused(
        &context,
        &format!("SELECT cmanp_predict(y, 1, 1, 1) {all}"),
        &["cmanp_predict", "argument 1", "cmanp_condition"],
    )
    .await;
    refused(
        &context,
        "SELECT cmanp_predict(X'00', 1, 1)",
        &["cmanp_predict has 3 arguments", "4: a posterior, then 3 of x"],
    )
    .await;
    refused(&context, "SELECT cmanp_predict(X'00', 'a', 1, 1)", &["cmanp_predict", "argument 2, x1", "numbers"]).await;
    for hostile in ["", "00", "ffffffffffffffff00", "0800000000000000aaaaaaaaaaaaaaaa", "0200000000000000 7b7d"] {
        let hostile = hostile.replace(' ', "");
        refused(&context, &format!("SELECT cmanp_predict(X'{hostile}', 1, 1, 1)"), &["cmanp_predict", "argument 1"])
            .await;
        refused(&context, &format!("SELECT cmanp_points(X'{hostile}')"), &["cmanp_points", "argument 1"]).await;
        refused(&context, &format!("SELECT cmanp_outside(X'{hostile}')"), &["cmanp_outside", "argument 1"]).await;
        refused(&context, &format!("SELECT cmanp_merge(X'{hostile}') {all}"), &["cmanp_merge", "argument 1"]).await;
    }
    // Posteriors of another form, of other parameters and with a byte that is missing or wrong.
    let good = "WHERE t < 0.5 AND c <> 'NaN'";
    let one = format!("SELECT cmanp_condition(y, t, c, s) AS p {all} {good}");
    let bytes = posteriors(&context, &one).await.remove(0).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // One is in the name of the fingerprint.
    let name = bytes.windows(11).position(|bytes| bytes == b"fingerprint").unwrap();
    for (cut, flip) in [
        (1, None),
        (bytes.len() / 2, None),
        (0, Some(40)),
        (0, Some(name + 3)),
        (0, Some(bytes.len() / 2)),
        (0, Some(bytes.len() - 9)),
    ] {
        let mut damaged = bytes[..bytes.len() - cut].to_vec();
        flip.into_iter().for_each(|i: usize| damaged[i] ^= 1);
        refused(&context, &format!("SELECT cmanp_predict(X'{}', 1, 1, 1)", hex(&damaged)), &["cmanp_predict"]).await;
    }
    // Two data sets side by side are no group of rows: their points would be taken for those of one.
    let model = Cmanp::open(&Device::cpu(), CHECKPOINT).unwrap().exact().unwrap();
    let both = model.condition(&Context::new(&[0.1, 1.0, 0.0, 0.2, 1.0, 0.0], &[0.5, 0.7]).batch(2)).unwrap();
    let both = hex(&both.to_checkpoint().unwrap().to_bytes().unwrap());
    for call in [format!("cmanp_predict(X'{both}', 1, 1, 1)"), format!("cmanp_points(X'{both}')")] {
        refused(&context, &format!("SELECT {call}"), &["argument 1", "2 data sets, allowed is one"]).await;
    }
    refused(&context, &format!("SELECT cmanp_merge(X'{both}') {all}"), &["argument 1", "2 data sets"]).await;
    let rounded = session(&functions.rounded(), &rows, 10, 2);
    refused(&rounded, &format!("SELECT cmanp_predict(X'{}', 1, 1, 1)", hex(&bytes)), &["cmanp_predict", "exact"]).await;
    let mut other = wgpu_attention::checkpoint::Checkpoint::open(CHECKPOINT).unwrap();
    let (shape, mut numbers) = other.remove("predictor.2.bias").unwrap();
    numbers[0] += 1.0;
    other.insert("predictor.2.bias", &shape, numbers).unwrap();
    let folder = std::env::temp_dir().join(format!("sql-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("other.safetensors");
    other.save(&path).unwrap();
    let other = session(&Functions::open(&path).unwrap(), &rows, 10, 2);
    let of_another = format!("SELECT cmanp_predict(X'{}', 1, 1, 1)", hex(&bytes));
    refused(&other, &of_another, &["cmanp_predict", "argument 1", "parameters"]).await;
    std::fs::remove_dir_all(&folder).unwrap();
    // Without a registration the engine says so, and a file that is no model cannot be registered.
    let bare = SessionContext::new();
    refused(&bare, "SELECT cmanp_points(X'00')", &["cmanp_points"]).await;
    assert!(register(&bare, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).is_err());
    assert!(register(&bare, "missing.safetensors").unwrap_err().to_string().contains("missing.safetensors"));
    assert!(functions.origin(&[1.0]).unwrap_err().to_string().contains("3 finite numbers"));
}
