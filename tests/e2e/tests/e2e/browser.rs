//! The page in a headless Chromium.

use crate::harness::scenario;

#[test]
fn two_tabs_chat_and_a_stream_hears_them_and_a_reload_replays() {
    scenario("browser", "twoTabsChat");
}

#[test]
fn report_echo_counters_and_colours_work_on_the_page() {
    scenario("browser", "proxyPanels");
}

#[test]
fn the_page_fits_a_small_screen_and_names_its_controls() {
    scenario("browser", "smallScreen");
}

#[test]
fn the_readme_screenshot_is_taken_when_asked_for() {
    if std::env::var_os("XTASK_SCREENSHOT").is_some() {
        scenario("browser", "screenshot");
    }
}
