//! What is shown besides the answers, and how.

use super::*;

/// Whether the cells of the row that begins with `text` are dim.
fn is_dim(terminal: &Terminal, text: &str) -> bool {
    let screen = terminal.parser.screen();
    let row = screen.rows(0, COLUMNS).position(|row| row.starts_with(text));
    let row = row.unwrap_or_else(|| panic!("no row begins with {text:?}:\n{}", terminal.screen()));
    screen.cell(row as u16, 0).unwrap().dim()
}

/// ChatML whose answers begin in a thought, as several reasoning models have it.
const THINKING: &str = concat!(
    "{% for message in messages %}",
    "{{ '<|im_start|>' + message.role + '\n' + message.content.split('</think>')[-1] + '<|im_end|>\n' }}",
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
);

/// A folder, arguments, and what they make the model think and answer.
fn thinking() -> (Folder, Vec<String>, String, String) {
    let folder = readable(Some(THINKING));
    for seed in 0..200 {
        let args = ["--temp", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "-n", "60", "-s"];
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).chain([seed.to_string()]).collect();
        let all: Vec<&str> = args.iter().map(String::as_str).chain(["-p", "the hint"]).collect();
        let text = folder.stdout("run", &all);
        if let Some((thought, answer)) = text.split_once(CLOSE)
            && thought.split_whitespace().count() > 5
            && answer.split_whitespace().count() > 5
            && !answer.contains(CLOSE)
        {
            return (folder, args, thought.trim().into(), answer.trim().into());
        }
    }
    panic!("no seed of 200 ends a thought");
}

/// Sequences that set colours or styles, but for those that put all back.
fn styles(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let csi = text.split("\x1b[").skip(1);
    csi.filter(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')).count()
}

#[test]
fn an_answer_ends_with_its_figures_and_the_title_counts_live() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &["-n", "40"]);
    let shown = terminal.say("the hint");
    let status = shown.last().unwrap();
    assert!(status.starts_with("answered 40 tokens · ") && status.ends_with(" cached"), "{shown:?}");
    assert!(is_dim(&terminal, "answered 40"));
    let titles = &terminal.parser.callbacks().0;
    assert!(titles.iter().all(|title| title.starts_with("valve · ") && title.contains("α -")), "{titles:?}");
    assert!(!titles.is_empty() && titles.len() <= 40);
    // The title that was there before comes back.
    let text = String::from_utf8_lossy(&terminal.bytes);
    assert_eq!((text.matches("\x1b[22;2t").count(), text.matches("\x1b[23;2t").count()), (1, 1));
}

#[test]
fn a_thought_is_dim_and_its_answer_is_not() {
    let (folder, args, thought, said) = thinking();
    let mut terminal = Terminal::chat(&folder, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let shown = terminal.say("the hint");
    assert_eq!(answer(&shown), format!("{}\n\n{}", on_screen(&thought), on_screen(&said)));
    let first = |text: &str| on_screen(text).lines().next().unwrap().to_owned();
    assert!(is_dim(&terminal, &first(&thought)) && !is_dim(&terminal, &first(&said)));
    let status = shown.last().unwrap();
    assert!(status.starts_with("thought ") && status.contains(", answered "), "{status}");
    assert_eq!(terminal.say("/thought").join("\n").trim(), on_screen(&thought));
    let saved = saved(&mut terminal, &folder);
    assert_eq!(saved["messages"][1]["thought"], thought);
    assert_eq!(saved["messages"][1]["content"].as_str().unwrap().trim_end(), said);
    // The template drops the thought from the history: the cache is good for what comes before it.
    let shown = terminal.say("and the ring");
    assert!(!shown.last().unwrap().ends_with(" 0 cached"), "{shown:?}");
    let stats = terminal.say("/stats").join("");
    assert!(stats.contains(" tokens before, the others read differently"), "{stats}");
}

#[test]
fn a_folded_thought_is_one_line() {
    let (folder, args, thought, said) = thinking();
    let mut terminal = Terminal::chat(&folder, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(terminal.say("/fold on"), ["fold on"]);
    let shown = terminal.say("the hint");
    assert!(shown[0].starts_with("▸ thought ") && shown[0].ends_with(" tokens"), "{shown:?}");
    assert!(is_dim(&terminal, "▸ thought"));
    assert_eq!(answer(&shown[1..]), on_screen(&said));
    assert!(String::from_utf8_lossy(&terminal.bytes).contains("thinking… "));
    assert_eq!(terminal.say("/thought").join("\n").trim(), on_screen(&thought));
}

#[test]
fn a_pipe_gets_the_answer_without_its_thought() {
    let (folder, args, _, said) = thinking();
    let command = folder.command("chat", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let (stdout, _) = super::super::succeed(super::super::feed(command, "the hint\n"));
    assert_eq!(stdout.trim(), said);
}

#[test]
fn no_colour_is_no_colour() {
    let folder = readable(None);
    let valve = folder.path("a.gguf");
    let mut plain = Terminal::chat_in(&folder, &["--valve", &valve], &[("NO_COLOR", "1")]);
    plain.say("the hint");
    plain.say("/alpha 1");
    assert_eq!(styles(&plain.bytes), 0);
    let mut styled = Terminal::chat(&folder, &["--valve", &valve]);
    styled.say("the hint");
    assert!(styles(&styled.bytes) > 0);
    assert_eq!(answer(&styled.say("/regen")), on_screen(&folder.greedy(&[])));
}

#[test]
fn a_dumb_terminal_gets_lines() {
    let folder = readable(None);
    let mut terminal = Terminal::chat_in(&folder, &[], &[("TERM", "dumb")]);
    let shown = terminal.say("the hint");
    assert_eq!(answer(&shown), on_screen(&folder.greedy(&[])));
    assert!(!terminal.bytes.contains(&0x1b), "{:?}", String::from_utf8_lossy(&terminal.bytes));
    terminal.press(CTRL_D);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_resize_disturbs_nothing() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &[]);
    let resize = |terminal: &Terminal, cols| {
        terminal.master.resize(PtySize { rows: ROWS, cols, ..PtySize::default() }).unwrap();
    };
    terminal.write("the hi");
    resize(&terminal, 60);
    terminal.write("nt");
    resize(&terminal, COLUMNS);
    assert_eq!(answer(&terminal.enter()), on_screen(&folder.greedy(&[])));
    terminal.say("/reset");
    terminal.write("the hint");
    let row = terminal.row();
    terminal.press("\r");
    resize(&terminal, 60);
    resize(&terminal, COLUMNS);
    terminal.wait("the next prompt", |t| t.row() > row && t.is_ready());
    assert_eq!(terminal.say("/scope"), ["scope all"]);
}

#[test]
fn commands_complete() {
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &[]);
    terminal.press("/al\t");
    terminal.wait("the command", |t| t.line().starts_with("> /alpha"));
    terminal.enter();
    terminal.press("/scope g\t");
    terminal.wait("the scope", |t| t.line().starts_with("> /scope generation"));
    assert_eq!(terminal.enter(), ["scope generation"]);
    folder.write("told.json", "{}");
    terminal.press(&format!("/load {}\t", folder.path("tol")));
    terminal.wait("the file", |t| t.line().ends_with("told.json"));
}

#[test]
fn the_scope_of_a_valve_can_be_the_thought() {
    let (folder, args, thought, said) = thinking();
    let valve = folder.path("a.gguf");
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--valve", &valve]).collect();
    let mut terminal = Terminal::chat(&folder, &args);
    assert_eq!(terminal.say("/scope think"), ["scope think"]);
    assert_eq!(answer(&terminal.say("the hint")), format!("{}\n\n{}", on_screen(&thought), on_screen(&said)));
    terminal.say("/alpha 2");
    let changed = terminal.say("/edit the hint");
    assert_ne!(answer(&changed), format!("{}\n\n{}", on_screen(&thought), on_screen(&said)));
    // A model without thoughts says so, and stays as it was.
    let folder = readable(None);
    let mut terminal = Terminal::chat(&folder, &["--valve", &folder.path("a.gguf")]);
    let refused = terminal.say("/scope think").join("");
    assert!(refused.starts_with("valve: ") && refused.contains("model.gguf"), "{refused}");
    assert_eq!(terminal.say("/scope"), ["scope all"]);
    assert!(answer(&terminal.say("the hint")) == on_screen(&folder.greedy(&[])));
}
