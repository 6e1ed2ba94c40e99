//! Packages with users of their own, installed where there is one id: the layers are those that a range of
//! ids gives.

mod support;

use support::Lab;

/// Fetched once. What an installation brings is told by the packages; what it does when is not asked.
const DEBS: &str = "FROM debian
RUN apt-get update && apt-get install -y --no-install-recommends --download-only postgresql nginx-light \
    && mkdir /debs && mv /var/cache/apt/archives/*.deb /debs && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
";

/// Keys, clusters and logs are made of chance and of the time; their owners are looked at before they go.
const INSTALL: &str = r#"FROM debs
ENV DEBIAN_FRONTEND=noninteractive
RUN dpkg -i /debs/*.deb && rm -r /debs
RUN <<END
set -eu
show() { stat -c '%U:%G %a %n' "$@"; }
show /var/lib/postgresql/15/main /var/lib/postgresql/15/main/PG_VERSION /var/log/nginx/access.log
show /etc/ssl/private/ssl-cert-snakeoil.key
service postgresql start
su postgres -c "psql -At -c 'select current_user'"
service postgresql stop
END
RUN rm -rf /var/lib/postgresql/15/main /etc/ssl/private/* /etc/ssl/certs/ssl-cert-snakeoil.pem /var/log/* \
    /var/cache/ldconfig/aux-cache
RUN <<END
set -eu
useradd -m -G staff joe
# The day on which the password was changed.
sed -i 's/^\(joe:[^:]*\):[0-9]*/\1:1/' /etc/shadow
install -D -o joe -g staff -m 640 /etc/passwd /srv/a/b
ln /srv/a/b /srv/c
chown -R joe: /srv/a
su joe -c 'id -un; mkdir -p ~/made; ln -s nowhere ~/made/link; umask 077; echo x > ~/made/mine'
tar -C / -cf /tmp/t.tar srv home
mkdir /unpacked
tar -C /unpacked -xpf /tmp/t.tar
rm /tmp/t.tar
stat -c '%U:%G %a %h' /unpacked/srv/a/b /unpacked/home/joe/made/mine
setpriv --reuid=33 --regid=33 --clear-groups touch /tmp/of-www-data
END
USER joe
WORKDIR /home/joe
RUN id -un && test ! -w /home/joe/made/link && echo more >> made/mine && cp made/mine other && stat -c '%u:%g' other
"#;

#[test]
fn installed_with_one_id_they_are_the_same() {
    let lab = Lab::with_debian();
    lab.containerfile(DEBS);
    lab.build(&["-t", "debs", "--source-date-epoch", "1700000000"]).succeeds();
    let install = |lab: &Lab| {
        lab.containerfile(INSTALL);
        // What the one has made is the other's as well, and is not to be taken from the cache here.
        let said = lab.build(&["--no-cache", "-o", "oci:out:latest"]);
        said.succeeds()
            .prints("postgres:postgres 700 /var/lib/postgresql/15/main")
            .prints("postgres:postgres 600 /var/lib/postgresql/15/main/PG_VERSION")
            .prints("www-data:adm 640 /var/log/nginx/access.log")
            .prints("root:ssl-cert 640 /etc/ssl/private/ssl-cert-snakeoil.key")
            .prints("postgres")
            .prints("joe")
            .prints("joe:joe 640 2")
            .prints("joe:joe 600 1")
            .prints("1000:1000");
        let (_, config) = lab.image("out");
        config["rootfs"]["diff_ids"].as_array().unwrap().clone()
    };
    let range = install(&lab);
    let single = install(&lab.single_id());
    // Base and packages; the installation and the servers' first run, which have chance in them; the rest.
    assert_eq!(range[..2], single[..2]);
    assert_eq!(range[4..], single[4..], "{range:#?} and {single:#?}");
    assert!(range.len() >= 7, "{} layers", range.len());
}
