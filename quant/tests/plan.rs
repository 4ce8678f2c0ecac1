//! Precision plans within a budget, their reasons and their errors.

use nextclip_quant::plan::{
    Budget, LayerOption, LayerSensitivity, PlanError, Precision, PrecisionPlan, Reason, choose_precisions,
    combined_drop_db,
};
use proptest::prelude::*;

fn layer(name: &str, options: &[(Precision, f64, f64)]) -> LayerSensitivity {
    let option = |(precision, psnr_drop_db, saving): &(Precision, f64, f64)| LayerOption {
        precision: *precision,
        psnr_drop_db: *psnr_drop_db,
        saving: *saving,
    };
    LayerSensitivity {
        layer: name.to_owned(),
        options: options.iter().map(option).collect(),
        keep_float: None,
    }
}

fn model() -> Vec<LayerSensitivity> {
    let mut first = layer("embed", &[(Precision::W8A8, 0.001, 1.0)]);
    first.keep_float = Some("first layer".to_owned());
    vec![
        first,
        layer("q", &[(Precision::W8A8, 0.02, 10.0)]),
        layer("up", &[(Precision::W8A8, 0.05, 40.0), (Precision::W4, 0.30, 60.0)]),
        layer("down", &[(Precision::W8A8, 0.60, 40.0)]),
        layer("norm", &[]),
    ]
}

#[test]
fn the_cheapest_layers_come_first_and_every_layer_has_a_reason() {
    let plan = choose_precisions(&model(), &Budget::of_drop(0.3)).unwrap();
    assert_eq!(plan.precision("up"), Some(Precision::W8A8));
    assert_eq!(plan.precision("q"), Some(Precision::W8A8));
    assert_eq!(plan.precision("down"), Some(Precision::Float));
    assert_eq!(plan.precision("nobody"), None);
    assert!((plan.predicted_drop_db - combined_drop_db([0.02, 0.05])).abs() < 1e-12);
    assert_eq!((plan.saving, plan.possible_saving), (50.0, 110.0));
    assert_eq!(plan.layers[0].reason, Reason::Kept { why: "first layer".to_owned() });
    assert!(matches!(plan.layers[3].reason, Reason::TooSensitive { precision: Precision::W8A8, .. }));
    assert_eq!(plan.layers[4].reason, Reason::NothingToGain);
}

#[test]
fn a_larger_budget_takes_the_layer_further() {
    let plan = choose_precisions(&model(), &Budget::of_drop(0.35)).unwrap();
    assert_eq!(plan.precision("up"), Some(Precision::W4));
    let plan = choose_precisions(&model(), &Budget::of_drop(5.0)).unwrap();
    assert_eq!(plan.saving, plan.possible_saving);
}

#[test]
fn impossible_budgets_say_what_is_reachable() {
    let error = choose_precisions(&model(), &Budget::of_drop(0.01)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a PSNR drop of at most 0.010 dB allows no layer below float; the least is 0.020 dB (q at w8a8)"
    );
    let fine = [layer("a", &[(Precision::W8A8, 0.000_456, 1.0)])];
    let error = choose_precisions(&fine, &Budget::of_drop(0.000_4)).unwrap_err().to_string();
    assert!(error.contains("at most 0.00040 dB") && error.contains("the least is 0.00046 dB"), "{error}");
    let budget = Budget { min_saving: 0.8, ..Budget::of_drop(0.3) };
    let error = choose_precisions(&model(), &budget).unwrap_err();
    let PlanError::SavingOutOfReach { reached, needed_db, .. } = error else { panic!("{error}") };
    assert!((reached - 50.0 / 110.0).abs() < 1e-12);
    let enough = Budget { max_psnr_drop_db: needed_db + 1e-9, ..budget };
    assert!(choose_precisions(&model(), &enough).unwrap().saving >= 0.8 * 110.0, "what it said is reachable");
}

#[test]
fn nonsense_is_refused_by_name() {
    for budget in
        [Budget::of_drop(f64::NAN), Budget::of_drop(-0.1), Budget { min_saving: 1.2, ..Budget::of_drop(1.0) }]
    {
        assert!(matches!(choose_precisions(&model(), &budget), Err(PlanError::Budget { .. })));
    }
    let twice = [layer("a", &[]), layer("a", &[])];
    let error = choose_precisions(&twice, &Budget::of_drop(1.0)).unwrap_err();
    assert_eq!(error, PlanError::Duplicate("a".to_owned()));
    let broken = [layer("a", &[(Precision::W4, f64::NAN, 1.0)])];
    let error = choose_precisions(&broken, &Budget::of_drop(1.0)).unwrap_err();
    assert_eq!(error.to_string(), "layer a at w4: psnr_drop_db is NaN, must be finite");
}

#[test]
fn a_model_without_anything_to_quantise_is_planned_float() {
    let plan = choose_precisions(&[layer("norm", &[])], &Budget::of_drop(0.0)).unwrap();
    assert_eq!((plan.predicted_drop_db, plan.saving), (0.0, 0.0));
}

#[test]
fn interaction_makes_a_smaller_plan() {
    let plan = choose_precisions(&model(), &Budget::of_drop(0.1)).unwrap();
    assert_eq!(plan.saving, 50.0);
    // Together they lost twice as much as each alone promised.
    let interaction = plan.interaction(combined_drop_db([0.02, 0.05, 0.02, 0.05]));
    assert!((interaction - 2.0).abs() < 1e-9);
    let again = choose_precisions(&model(), &Budget { interaction, ..Budget::of_drop(0.1) }).unwrap();
    assert_eq!(again.saving, 40.0, "the layer that gains more for its noise stays\n{again}");
    assert!(again.predicted_drop_db <= 0.1);
}

#[test]
fn plans_are_written_and_read() {
    let plan = choose_precisions(&model(), &Budget::of_drop(0.3)).unwrap();
    let json = serde_json::to_string_pretty(&plan).unwrap();
    assert!(json.contains(r#""precision": "w8a8""#) && json.contains(r#""kind": "too-sensitive""#), "{json}");
    assert_eq!(serde_json::from_str::<PrecisionPlan>(&json).unwrap(), plan);
    let report = plan.to_string();
    assert!(report.contains("kept float: first layer") && report.contains("45.5 %"), "{report}");
    println!("{report}");
}

proptest! {
    #[test]
    fn no_plan_exceeds_its_budget(
        layers in prop::collection::vec((-0.1_f64..0.5, 0.0_f64..10.0, 0.0_f64..0.8, 0.0_f64..20.0), 0..30),
        max_psnr_drop_db in 0.0_f64..1.0
    ) {
        let layers: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(i, (drop, saving, drop4, saving4))| {
                layer(&i.to_string(), &[(Precision::W8A8, *drop, *saving), (Precision::W4, *drop4, *saving4)])
            })
            .collect();
        match choose_precisions(&layers, &Budget::of_drop(max_psnr_drop_db)) {
            Ok(plan) => {
                let drops = plan.layers.iter().map(|choice| choice.psnr_drop_db);
                let combined = combined_drop_db(drops);
                prop_assert!(combined <= max_psnr_drop_db + 1e-9);
                prop_assert!((combined - plan.predicted_drop_db).abs() < 1e-9);
            }
            Err(PlanError::NothingFits { needed_db, .. }) => prop_assert!(needed_db > max_psnr_drop_db),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
