//! The checks there are: code, level and one sentence each. Their pages are in the book, and in the program.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Could be better
    Info,
    /// Likely a mistake, or bad practice
    Warning,
    /// Wrong
    Error,
}

impl Level {
    /// In lower case: `info`, `warning`, `error`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($code:ident $level:ident $summary:literal;)*) => {
        /// A check. Those that BuildKit has too bear its names, so that `# check=skip=…` means the same to both.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $summary] $code,)*
        }

        impl Code {
            /// All of them, in the order of the book.
            pub const ALL: &[Code] = &[$(Code::$code,)*];

            /// The name, as `# check=skip=` and the output have it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$code => stringify!($code),)*
                }
            }

            /// How bad its findings are.
            pub fn level(self) -> Level {
                match self {
                    $(Code::$code => Level::$level,)*
                }
            }

            /// What it demands, in one sentence.
            pub fn summary(self) -> &'static str {
                match self {
                    $(Code::$code => $summary,)*
                }
            }

            /// Its page in the book, in Markdown.
            pub fn page(self) -> &'static str {
                match self {
                    $(Code::$code => {
                        include_str!(concat!("../../docs/src/checks/", stringify!($code), ".md"))
                    })*
                }
            }
        }
    };
}

codes! {
    StageNameCasing Warning "Stage names are written in lower case.";
    FromAsCasing Warning "FROM and AS are written in the same case.";
    NoEmptyContinuation Warning "No blank line stands inside an instruction.";
    ConsistentInstructionCasing Warning "All instructions are written in the same case.";
    DuplicateStageName Error "Every stage has a name of its own.";
    ReservedStageName Error "No stage is named `scratch` or `context`.";
    UndefinedArgInFrom Warning "FROM uses arguments that are declared before the first FROM.";
    InvalidDefaultArgInFrom Warning "With the defaults of its arguments, FROM names an image.";
    RedundantTargetPlatform Warning "FROM does not ask for the platform that it has anyway.";
    FromPlatformFlagConstDisallowed Warning "FROM leaves the platform to whoever builds.";
    BaseImageUntagged Warning "Base images have a tag or a digest.";
    BaseImageLatest Warning "Base images do not have the tag `latest`.";
    UndefinedVar Warning "Variables are set before they are used.";
    SecretsUsedInArgOrEnv Warning "Secrets are neither in ARG nor in ENV.";
    LegacyKeyValueFormat Warning "ENV and LABEL are written with `=`.";
    JSONArgsRecommended Warning "CMD and ENTRYPOINT are written as JSON arrays.";
    MultipleInstructionsDisallowed Warning "A stage has one CMD, one ENTRYPOINT and one HEALTHCHECK.";
    WorkdirRelativePath Warning "The first WORKDIR of a stage is an absolute path.";
    MaintainerDeprecated Warning "LABEL has taken the place of MAINTAINER.";
    ExposeProtoCasing Warning "Protocols in EXPOSE are written in lower case.";
    ExposeInvalidFormat Warning "EXPOSE names ports of the container only.";
    CopyIgnoredFile Warning "What COPY and ADD ask for is not excluded by an ignore file.";
    InvalidDefinitionDescription Warning "A comment above an ARG or a named stage begins with its name.";
    NoUser Warning "An image that starts a program says as which user.";
    AddInsteadOfCopy Warning "Plain files are copied with COPY.";
    MissingDockerignore Info "A context that is copied as a whole has an ignore file.";
    AptGetUpdateAlone Warning "`apt-get update` and the installation are in the same RUN.";
    PackageListsKept Warning "What a package manager has downloaded does not stay in the layer.";
    SudoUsed Warning "RUN does not use `sudo`.";
    UnknownCheck Warning "`# check=` names checks that exist.";
}

/// Names that BuildKit knows and that are nothing to be found here: an image's platform is checked when it is
/// chosen, the others have been renamed. Skipping them is no mistake.
pub(super) const SILENT: [&str; 4] = [
    "InvalidBaseImagePlatform",
    "FileConsistentCommandCasing",
    "SelfConsistentCommandCasing",
    "NoEmptyContinuations",
];

impl Code {
    /// The check of this name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// Whether BuildKit has it too, and so tells of it in every build.
    pub fn is_shared(self) -> bool {
        !matches!(
            self,
            Code::BaseImageUntagged
                | Code::BaseImageLatest
                | Code::NoUser
                | Code::AddInsteadOfCopy
                | Code::MissingDockerignore
                | Code::AptGetUpdateAlone
                | Code::PackageListsKept
                | Code::SudoUsed
                | Code::UnknownCheck
        )
    }

    /// Whether it runs only where `# check=experimental=` asks for it.
    pub fn is_experimental(self) -> bool {
        self == Code::InvalidDefinitionDescription
    }
}
