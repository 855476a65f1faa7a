//! The module in tcpcopy's engine, on a virtual network: time and chance are made up, so that a run takes no time and can
//! be repeated.

use std::time::Duration;

use tcpcopy_module_api::{ModuleEntry, Options};
use tcpcopy_netsim::{ModuleNetwork, Quality, Script, lines};
use tcpcopy_template::TemplateModule;

#[test]
fn the_right_lines_arrive_once_and_in_order_on_a_bad_path() {
    let options = Options::new(vec![("without".to_owned(), "#".to_owned())]);
    let module = ModuleEntry::of::<TemplateModule>().create(&options).unwrap();
    let said: Vec<String> = (0..60).map(|i| format!("{}line {i}\n", if i % 3 == 0 { "# " } else { "" })).collect();
    for seed in 0..10 {
        let client = said.iter().fold(Script::new(), |script, line| script.send(line.as_str()).wait_for(3));
        let outcome = ModuleNetwork::new(module.clone())
            .seed(seed)
            .target_path(Quality { loss: 50, ..Quality::delayed(Duration::from_millis(2)) })
            .client(client)
            .online(|_| lines(|_| "ok\n"))
            .target(|_| lines(|_| "ok\n"))
            .run();
        outcome.assert_all_completed();
        let expected: Vec<&[u8]> =
            said.iter().filter(|line| !line.starts_with('#')).map(|line| line.as_bytes()).collect();
        assert_eq!(outcome.messages_of(0), expected, "seed {seed}");
    }
}
