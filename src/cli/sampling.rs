//! Arguments that say how tokens are drawn: the fields of [`Sampling`], each by its name.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use cotvalve::error::{Error, Result};
use cotvalve::sampler::{Field, Sampling};

/// A flag that names a file to read a field from.
struct FileFlag {
    name: &'static str,
    alias: Option<&'static str>,
    field: &'static str,
    about: &'static str,
}

const FILES: [FileFlag; 2] = [
    FileFlag {
        name: "json-schema-file",
        alias: Some("jf"),
        field: "json-schema",
        about: "File that holds a JSON schema to answer with",
    },
    FileFlag { name: "grammar-file", alias: None, field: "grammar", about: "File that holds a grammar to answer with" },
];
/// The heading of these flags in the help.
const HEADING: &str = "Sampling";

pub struct SamplingArgs {
    limit: i64,
    sampling: Sampling,
    /// None draws one from the clock for every answer.
    seed: Option<u64>,
}

impl Args for SamplingArgs {
    fn augment_args(command: Command) -> Command {
        let limit = Arg::new("n-predict").short('n').long("n-predict").value_name("N").allow_negative_numbers(true);
        let limit = limit.value_parser(clap::value_parser!(i64)).default_value("-1");
        let limit = limit.help("Most tokens to generate; -1 goes on until the model ends or the context is full");
        let fields = Sampling::fields().iter().map(flag);
        let files = FILES.iter().map(|file| {
            let arg = Arg::new(file.name).long(file.name).value_name("FILE").help(file.about).help_heading(HEADING);
            let arg = if let Some(alias) = file.alias { arg.visible_alias(alias) } else { arg };
            arg.conflicts_with(file.field)
        });
        command.arg(limit).args(fields).args(files)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SamplingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let refuse = |error: Error| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}\n"));
        let mut sampling = Sampling::default();
        for field in Sampling::fields() {
            let texts = texts(field, matches).map_err(refuse)?;
            texts.iter().try_for_each(|text| field.parse(&mut sampling, text)).map_err(refuse)?;
        }
        let given = matches.get_one::<String>("seed").is_some_and(|seed| seed != "-1");
        let limit = matches.get_one("n-predict").copied().unwrap_or(-1);
        Ok(Self { limit, seed: given.then_some(sampling.seed), sampling })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a field.
fn flag(field: &'static Field) -> Arg {
    let arg = Arg::new(field.name).long(field.name).help(field.about).help_heading(HEADING);
    let arg = if let Some(short) = field.short { arg.short(short) } else { arg };
    let arg = if let Some(alias) = field.alias { arg.visible_alias(alias) } else { arg };
    let Some(value) = field.value else { return arg.action(ArgAction::SetTrue) };
    let check = |text: &str| field.parse(&mut Sampling::default(), text).map(|()| text.to_owned());
    let action = if field.list { ArgAction::Append } else { ArgAction::Set };
    arg.value_name(value).action(action).allow_hyphen_values(true).value_parser(check)
}

/// What was given for a field, from files too.
fn texts(field: &Field, matches: &ArgMatches) -> Result<Vec<String>> {
    if field.value.is_none() {
        return Ok(if matches.get_flag(field.name) { vec!["true".into()] } else { Vec::new() });
    }
    let given = matches.get_many::<String>(field.name).into_iter().flatten();
    let given = given.map(|text| match text.strip_prefix('@').filter(|_| field.name == "json-schema") {
        Some(path) => read(path),
        None => Ok(text.clone()),
    });
    let files = FILES.iter().filter(|file| file.field == field.name);
    given.chain(files.filter_map(|file| matches.get_one::<String>(file.name)).map(|path| read(path))).collect()
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })
}

impl SamplingArgs {
    pub fn sampling(&self) -> Sampling {
        let mut sampling = self.sampling.clone();
        match self.seed {
            Some(seed) => sampling.seed = seed,
            // Every number is in range, so this can not fail.
            None => sampling.set("seed", "-1").unwrap_or_default(),
        }
        sampling
    }

    /// Tokens that may follow `prompt` tokens in a context of `context`.
    ///
    /// # Errors
    /// [`Error::ContextFull`] if some are wanted and there is no room for one.
    pub fn limit(&self, prompt: usize, context: usize) -> Result<usize> {
        let room = context.saturating_sub(prompt);
        if room == 0 && self.limit != 0 {
            return Err(Error::ContextFull { needed: prompt + 1, capacity: context });
        }
        Ok(usize::try_from(self.limit).map_or(room, |n| n.min(room)))
    }
}
